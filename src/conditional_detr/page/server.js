// The detector behind this page: the server that it comes from.

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer.");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.detail ?? `The server answers with ${response.status}.`);
  return content;
}

function form(file) {
  const body = new FormData();
  body.append("images", file, file.name || "image.png");
  return { method: "POST", body };
}

// {name, summary, class_names, category_ids, thresholds, explains}
export const model = () => answer("model");

// All detections of an image file with at least this score: {width, height, detections: [{category_id, category_name, bbox, score}]}
export async function detect(file, lowest) {
  return (await answer(`predict?conf=${lowest}`, form(file))).images[0];
}

// The same with attention maps
export const explain = (file, lowest) => answer(`explain?conf=${lowest}`, form(file));
