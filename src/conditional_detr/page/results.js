// Choose among detections, and write them down.

export const DEFAULT = 0.3; // score threshold of a model without learned ones

export function visible(detections, { info, learned, threshold, hiddenClasses }) {
  const lowest = ({ category_id }) => {
    if (!learned) return threshold;
    return info.thresholds ? info.thresholds[info.category_ids.indexOf(category_id)] : DEFAULT;
  };
  return detections.filter((found) => found.score >= lowest(found) && !hiddenClasses.has(found.category_id));
}

// As the server answers
export function asJson(entry, detections) {
  const { width, height } = entry.result;
  return JSON.stringify({ images: [{ file_name: entry.name, width, height, detections }] }, null, 1);
}

// A COCO data set with one image
export function asCoco(entry, detections, info) {
  const { width, height } = entry.result;
  return JSON.stringify(
    {
      images: [{ id: 1, file_name: entry.name, width, height }],
      annotations: detections.map((found, i) => ({
        id: i + 1, image_id: 1, category_id: found.category_id, bbox: found.bbox, area: found.bbox[2] * found.bbox[3], iscrowd: 0,
        score: found.score,
      })),
      categories: info.class_names.map((name, i) => ({ id: info.category_ids[i], name })),
    },
    null,
    1,
  );
}
