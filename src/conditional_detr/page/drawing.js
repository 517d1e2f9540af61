// Draw an image with its boxes and the attention of one of them on a canvas.
import { fitted, toScreen } from "./geometry.js";

const COLOURS = ["#c4122f", "#1f7a34", "#2f5bd0", "#a85500", "#7d2fa0", "#00707f", "#c0187c", "#7a4a1e", "#626a00", "#54606e"];
const MANY = 30; // boxes, from which on small ones have no label

// Colour of a class: white text on it can be read.
export const colourOf = (info, categoryId) => COLOURS[Math.max(0, info.category_ids.indexOf(categoryId)) % COLOURS.length];

// Room of a canvas on the screen, in px.
export const roomOf = (canvas) => ({ width: canvas.clientWidth, height: canvas.clientHeight });

// scene: {bitmap, size, view, boxes, chosen, colour, attention}. Returns the view, which is the whole image if it was null.
export function draw(canvas, scene) {
  const ratio = window.devicePixelRatio || 1;
  const room = roomOf(canvas);
  canvas.width = Math.round(room.width * ratio);
  canvas.height = Math.round(room.height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const view = scene.view ?? fitted(scene.size, room);
  const frame = [view.left, view.top, scene.size.width * view.scale, scene.size.height * view.scale];
  context.imageSmoothingEnabled = view.scale < 3;
  if (scene.bitmap) context.drawImage(scene.bitmap, ...frame);
  if (scene.attention) drawAttention(context, view.scale, frame, scene.attention);
  context.textBaseline = "bottom";
  context.font = "14px system-ui, sans-serif";
  const last = scene.boxes.filter((found) => found === scene.chosen); // above the others
  for (const found of [...scene.boxes.filter((each) => each !== scene.chosen), ...last]) drawBox(context, room, view, scene, found);
  return view;
}

function drawBox(context, room, view, { boxes, chosen, colour }, found) {
  const [x, y, w, h] = found.bbox;
  const [left, top] = toScreen(view, x, y);
  const [width, height] = [w * view.scale, h * view.scale];
  const thickness = found === chosen ? 4 : 2;
  for (const [style, wider] of [["rgb(255 255 255 / 75%)", 2], [colour(found.category_id), 0]]) {
    context.strokeStyle = style; // white on both sides, so that the line is seen on dark images too
    context.lineWidth = thickness + wider;
    context.strokeRect(left, top, width, height);
  }
  if (found !== chosen && width < 60 && boxes.length > MANY) return; // the list has the names of small boxes
  const text = `${found.category_name} ${found.score.toFixed(2)}`;
  const length = context.measureText(text).width + 8;
  const start = Math.max(Math.min(left - 1, room.width - length), 0);
  context.fillStyle = colour(found.category_id);
  context.fillRect(start, Math.max(top - 19, 0), length, 19);
  context.fillStyle = "#fff";
  context.fillText(text, start + 4, Math.max(top, 19) - 1);
}

// attention: {maps, values, index}, where `index` counts the maps [layer, head] in `values`
function drawAttention(context, scale, [left, top, width, height], { maps, values, index }) {
  const { rows, columns } = maps;
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    pixels.data.set([255, 90, 0, values[index * rows * columns + i] * 0.85], 4 * i);
  }
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.imageSmoothingEnabled = true;
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.fillRect(left, top, width, height);
  context.drawImage(small, left, top, columns * maps.cell_width * scale, rows * maps.cell_height * scale);
  context.restore();
}
