// The detector behind this page: the network, run on this device by a worker.

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let number = 0;

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(result);
};
worker.onerror = (event) => {
  for (const { reject } of waiting.values()) reject(new Error(event.message || "The network cannot be run in this browser."));
  waiting.clear();
};

function ask(work, ...given) {
  return new Promise((resolve, reject) => {
    waiting.set(++number, { resolve, reject });
    worker.postMessage({ id: number, work, given });
  });
}

export const model = () => ask("model");
export const detect = (file, lowest) => ask("detect", file, lowest);
export const raw = (file) => ask("raw", file); // before clipping and suppression, for the proof
export const input = (file) => ask("input", file); // of the network, for tests

export async function explain() {
  throw new Error("An exported model cannot explain its detections.");
}
