// Runs the network in the background, so that the page stays usable.
import * as ort from "./ort/ort.wasm.min.mjs";
import { cropped, prepare, withoutAlpha } from "./pixels.js";
import { best, clipped, merged, notSuppressed, windows } from "./postprocess.js";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

const config = fetch(new URL("./model.json", import.meta.url)).then((response) => response.json());
const session = fetch(new URL("./model.onnx", import.meta.url))
  .then((response) => response.arrayBuffer())
  .then((graph) => ort.InferenceSession.create(graph, { executionProviders: ["wasm"] }));

// uint8 RGB and [height, width] of an image file
async function decoded(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error("This browser cannot read the file as an image.");
  });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { pixels: withoutAlpha(context.getImageData(0, 0, width, height).data), size: [height, width] };
}

async function run(pixels, size) {
  const { preprocessor, classification } = await config;
  const { images, padding, height, width } = prepare(pixels, size, preprocessor);
  const outputs = await (await session).run({
    images: new ort.Tensor("float32", images, [1, 3, height, width]),
    padding_mask: new ort.Tensor("bool", padding, [1, height, width]),
  });
  const { logits, boxes } = outputs;
  return best(logits.data, boxes.data, logits.dims[1], logits.dims[2], size, classification);
}

async function raw(file) {
  const { tile, overlap } = (await config).preprocessor;
  const { pixels, size } = await decoded(file);
  const of = windows(size, tile, overlap);
  const parts = [];
  for (const window of of) {
    const part = of.length === 1 ? pixels : cropped(pixels, size, window);
    parts.push(await run(part, [window.bottom - window.top, window.right - window.left]));
  }
  return { size, detections: merged(parts, of, tile, overlap) };
}

async function detect(file, lowest) {
  const { class_names: names, category_ids: ids, nms_iou: iou } = await config;
  const { size, detections } = await raw(file);
  const sure = detections
    .filter(({ score }) => score >= lowest)
    .map((found) => ({ ...found, box: clipped(found.box, size) }));
  const [height, width] = size;
  return {
    width,
    height,
    detections: notSuppressed(sure, iou).map(({ score, label, box: [x0, y0, x1, y1] }) => ({
      category_id: ids[label], category_name: names[label], bbox: [x0, y0, x1 - x0, y1 - y0], score,
    })),
  };
}

async function model() {
  await session;
  const { name, summary, class_names, category_ids, thresholds } = await config;
  return { name, summary, class_names, category_ids, thresholds, explains: false };
}

async function input(file) {
  const { pixels, size } = await decoded(file);
  return prepare(pixels, size, (await config).preprocessor);
}

const works = { model, detect, raw, input };

self.onmessage = async ({ data: { id, work, given } }) => {
  try {
    self.postMessage({ id, result: await works[work](...given) });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
};
