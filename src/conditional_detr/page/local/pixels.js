// From the pixels of an image to the input of the network, with the same integer arithmetic as the Python library.

const WEIGHT_LIMIT = 2 ** 15; // weights are 16-bit integers, with as many fractional bits as fit
const MAX_BITS = 22;

// Height and width after resizing the shorter side to `shortest`, while limiting the longer side to `longest`
export function resizedSize([height, width], shortest, longest) {
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  if ((long / short) * shortest > longest) shortest = Math.max(1, roundHalfEven((longest * short) / long));
  const other = Math.min(Math.max(1, Math.trunc((shortest * long) / short)), Math.max(longest, 1));
  return height <= width ? [shortest, other] : [other, shortest];
}

// As Python rounds
export function roundHalfEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

export const paddedSize = (size, multiple) => size.map((length) => Math.ceil(length / multiple) * multiple);

// The triangular filter that resizes an axis; it is wider if the axis gets shorter. For each output: first input and weights
function filter(length, size) {
  const scale = length / size;
  const support = Math.max(scale, 1);
  const outputs = Array.from({ length: size }, (_, i) => {
    const centre = scale * (i + 0.5);
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const count = Math.min(Math.trunc(centre + support + 0.5), length) - first;
    const weights = Array.from({ length: count }, (_, k) => Math.max(1 - Math.abs((k + first - centre + 0.5) * (1 / support)), 0));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
  let largest = 0;
  for (const { weights } of outputs) for (const weight of weights) largest = Math.max(largest, weight);
  let bits = 0;
  while (bits < MAX_BITS && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < WEIGHT_LIMIT) bits++;
  return { bits, outputs: outputs.map(({ first, weights }) => ({ first, weights: weights.map((w) => Math.floor(w * 2 ** bits + 0.5)) })) };
}

// Resize one axis of an image [lines, length, step]: uint8 RGB, where neighbours along the axis are `step` values apart
function resizeAxis(pixels, lines, length, size, step, lineStep) {
  const { bits, outputs } = filter(length, size);
  const made = new Uint8Array((pixels.length / length) * size);
  const madeLine = (lineStep / length) * size;
  const half = 2 ** (bits - 1);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < size; i++) {
      const { first, weights } = outputs[i];
      for (let c = 0; c < step; c++) {
        let sum = half;
        for (let k = 0, at = line * lineStep + first * step + c; k < weights.length; k++, at += step) sum += weights[k] * pixels[at];
        made[line * madeLine + i * step + c] = Math.min(Math.floor(sum / 2 ** bits), 255);
      }
    }
  }
  return made;
}

// Resize uint8 RGB [height, width, 3], the width first
export function resize(pixels, [height, width], [newHeight, newWidth]) {
  if (width !== newWidth) pixels = resizeAxis(pixels, height, width, newWidth, 3, 3 * width);
  if (height !== newHeight) pixels = resizeAxis(pixels, 1, height, newHeight, 3 * newWidth, 3 * newWidth * height);
  return pixels;
}

// The input of the network for uint8 RGB [height, width, 3]: images float32 [1, 3, H, W] and padding mask [1, H, W], 1 = padding
export function prepare(pixels, size, { imgsz, longest, mean, std, size_multiple: multiple }) {
  const [height, width] = resizedSize(size, imgsz, longest);
  const [paddedHeight, paddedWidth] = paddedSize([height, width], multiple);
  const resized = resize(pixels, size, [height, width]);
  const plane = paddedHeight * paddedWidth;
  const images = new Float32Array(3 * plane);
  const padding = new Uint8Array(plane).fill(1);
  const f = Math.fround;
  const values = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => f(f(f(v / 255) - f(m)) / f(std[c]))));
  for (let y = 0; y < height; y++) {
    padding.fill(0, y * paddedWidth, y * paddedWidth + width);
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) images[c * plane + y * paddedWidth + x] = values[c][resized[3 * (y * width + x) + c]];
    }
  }
  return { images, padding, height: paddedHeight, width: paddedWidth };
}

// RGB of RGBA pixels
export function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i];
    rgb[j++] = rgba[i + 1];
    rgb[j++] = rgba[i + 2];
  }
  return rgb;
}

// A part of uint8 RGB [height, width, 3]
export function cropped(pixels, [, width], { left, top, right, bottom }) {
  const made = new Uint8Array(3 * (right - left) * (bottom - top));
  for (let y = top, at = 0; y < bottom; y++, at += 3 * (right - left)) {
    made.set(pixels.subarray(3 * (y * width + left), 3 * (y * width + right)), at);
  }
  return made;
}
