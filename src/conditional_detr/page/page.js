// The page: images in, boxes out. The detector behind it is in backend.js.
import { detect, explain, model } from "./backend.js";
import { clampView, fitted, toImage, toScreen, zoomed } from "./geometry.js";
import { asCoco, asJson, visible } from "./results.js";

const LOWEST = 0.05; // score from which detections are fetched; the slider chooses among them
const PARTS = ["combined", "spatial", "content"];
const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000", "#000075"];

const $ = (id) => document.getElementById(id);
const state = {
  info: null, images: [], current: 0, learned: true, threshold: 0.3, hiddenClasses: new Set(), chosen: null, view: null,
};

const colour = (categoryId) => COLOURS[Math.max(0, state.info.category_ids.indexOf(categoryId)) % COLOURS.length];
const image = () => state.images[state.current];
const shown = () => (image()?.result ? visible(image().result.detections, state) : []);

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function element(tag, options = {}, ...children) {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...children); // texts become text nodes, never markup
  return made;
}

function swatch(categoryId) {
  const made = element("span", { className: "swatch" });
  made.style.background = colour(categoryId);
  return made;
}

// Images

async function add(files) {
  const chosen = [...files].filter((file) => file.type === "" || file.type.startsWith("image/"));
  if (!chosen.length) return say("That is not an image.", true);
  const first = state.images.length;
  state.images.push(...chosen.map((file) => ({ file, name: file.name || "image.png", result: null, bitmap: null, error: null, maps: null })));
  $("drop").hidden = true;
  $("view").hidden = $("tools").hidden = false;
  await show(first);
  for (const entry of state.images.slice(first)) await load(entry);
}

async function load(entry) {
  if (entry === image()) say("Detecting…");
  try {
    [entry.bitmap, entry.result] = await Promise.all([
      createImageBitmap(entry.file, { imageOrientation: "from-image" }).catch(() => null),
      detect(entry.file, LOWEST),
    ]);
    if (!entry.bitmap) entry.error = "This browser cannot show the image, but its detections are listed.";
  } catch (error) {
    entry.error = error.message;
  }
  if (entry === image()) await show(state.current);
}

async function show(number) {
  state.current = Math.min(Math.max(number, 0), state.images.length - 1);
  state.chosen = null;
  state.view = null;
  $("position").textContent = `${state.current + 1} of ${state.images.length}`;
  $("previous").disabled = state.current === 0;
  $("next").disabled = state.current === state.images.length - 1;
  listClasses();
  update();
}

// Drawing

function size() {
  const { width, height } = image().result ?? image().bitmap ?? { width: 1, height: 1 };
  return { width, height };
}

function draw() {
  const canvas = $("canvas");
  const ratio = window.devicePixelRatio || 1;
  const box = { width: canvas.clientWidth, height: canvas.clientHeight };
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const entry = image();
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.clearRect(0, 0, box.width, box.height);
  if (!entry?.bitmap && !entry?.result) return;
  state.view ??= fitted(size(), box);
  const { left, top, scale } = state.view;
  context.imageSmoothingEnabled = scale < 3;
  const { width, height } = size();
  if (entry.bitmap) context.drawImage(entry.bitmap, left, top, width * scale, height * scale);
  drawAttention(context);
  context.textBaseline = "bottom";
  context.font = "14px system-ui, sans-serif";
  for (const found of shown()) drawBox(context, found, found === state.chosen);
  const count = shown().length;
  canvas.setAttribute("aria-label", `${entry.name} with ${count} ${count === 1 ? "detection" : "detections"}`);
}

function drawBox(context, found, isChosen) {
  const [x, y, w, h] = found.bbox;
  const [left, top] = toScreen(state.view, x, y);
  const width = w * state.view.scale;
  const height = h * state.view.scale;
  context.strokeStyle = colour(found.category_id);
  context.lineWidth = isChosen ? 4 : 2;
  context.strokeRect(left, top, width, height);
  if (!isChosen && width < 60 && shown().length > 30) return; // the list has the names of small boxes
  const text = `${found.category_name} ${found.score.toFixed(2)}`;
  const room = context.measureText(text).width + 8;
  context.fillStyle = context.strokeStyle;
  context.fillRect(left - 1, Math.max(top - 19, 0), room, 19);
  context.fillStyle = "#fff";
  context.fillText(text, left + 3, Math.max(top, 19) - 1);
}

function drawAttention(context) {
  const maps = mapsOf(state.chosen);
  if (!maps) return;
  const values = maps[$("part").value];
  if (!values) return;
  const { rows, columns } = maps;
  const index = Number($("layer").value) * maps.heads + Number($("head").value);
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    pixels.data.set([255, 90, 0, values[index * rows * columns + i] * 0.85], 4 * i);
  }
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(pixels, 0, 0);
  const { left, top, scale } = state.view;
  const { width, height } = size();
  context.save();
  context.beginPath();
  context.rect(left, top, width * scale, height * scale);
  context.clip();
  context.imageSmoothingEnabled = true;
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.fillRect(left, top, width * scale, height * scale);
  context.drawImage(small, left, top, columns * maps.cell_width * scale, rows * maps.cell_height * scale);
  context.restore();
}

// Lists

function listClasses() {
  const counts = new Map();
  for (const found of image()?.result?.detections ?? []) counts.set(found.category_id, found.category_name);
  $("classes").hidden = counts.size < 2;
  $("class-list").replaceChildren(
    ...[...counts].map(([id, name]) => {
      const box = element("input", { type: "checkbox", checked: !state.hiddenClasses.has(id) });
      box.addEventListener("change", () => {
        state.hiddenClasses[box.checked ? "delete" : "add"](id);
        update();
      });
      return element("label", { className: "row" }, box, swatch(id), element("span", { className: "name" }, name));
    }),
  );
}

function update() {
  const entry = image();
  const found = shown();
  if (state.chosen && !found.includes(state.chosen)) state.chosen = null;
  $("threshold-text").textContent = state.threshold.toFixed(2);
  $("learned").checked = state.learned;
  $("detections").replaceChildren(
    ...found.map((each) => {
      const button = element(
        "button",
        { type: "button" },
        swatch(each.category_id),
        element("span", { className: "name" }, each.category_name),
        element("span", {}, each.score.toFixed(2)),
      );
      button.setAttribute("aria-pressed", String(each === state.chosen));
      button.addEventListener("click", () => choose(each === state.chosen ? null : each));
      return element("li", {}, button);
    }),
  );
  for (const id of ["copy-json", "copy-coco"]) $(id).disabled = !entry?.result;
  if (entry?.error) say(entry.error, !entry.result);
  else if (entry?.result) say(`${found.length} of ${entry.result.detections.length} detections are shown.`);
  if (entry) draw();
}

// Attention

function mapsOf(found) {
  const explained = image()?.maps;
  if (!found || !explained) return null;
  const same = explained.find(
    (each) => each.category_id === found.category_id && each.bbox.every((value, i) => Math.abs(value - found.bbox[i]) < 1),
  );
  return same?.maps ?? null;
}

const bytes = (text) => (text ? Uint8Array.from(atob(text), (character) => character.charCodeAt(0)) : null);

async function choose(found) {
  state.chosen = found;
  $("attention").hidden = !found || !state.info.explains;
  update();
  if (!found || !state.info.explains) return;
  const entry = image();
  if (!entry.maps) {
    $("attention-status").textContent = "Computing…";
    try {
      const explained = await explain(entry.file, LOWEST);
      for (const each of explained.detections) for (const part of PARTS) each.maps[part] = bytes(each.maps[part]);
      entry.maps = explained.detections;
    } catch (error) {
      $("attention-status").textContent = error.message;
      return;
    }
  }
  if (state.chosen !== found) return;
  const maps = mapsOf(found);
  $("attention-status").textContent = maps ? "" : "Only the 30 best detections of an image are explained.";
  if (maps) {
    options($("part"), PARTS.filter((part) => maps[part]).map((part) => [part, part]));
    options($("layer"), Array.from({ length: maps.layers }, (_, i) => [i, i + 1]), maps.layers - 1);
    options($("head"), Array.from({ length: maps.heads }, (_, i) => [i, i + 1]));
  }
  draw();
}

function options(select, values, usual = values[0][0]) {
  const before = select.value;
  select.replaceChildren(...values.map(([value, text]) => element("option", { value }, String(text))));
  select.value = values.some(([value]) => String(value) === before) ? before : String(usual);
}

// Input

function setThreshold(value) {
  state.learned = false;
  state.threshold = Math.min(Math.max(value, 0.05), 0.95);
  $("threshold").value = state.threshold;
  update();
}

function zoom(factor, at = null) {
  const canvas = $("canvas");
  const box = { width: canvas.clientWidth, height: canvas.clientHeight };
  if (!state.view) return;
  state.view = clampView(zoomed(state.view, factor, at ?? [box.width / 2, box.height / 2]), size(), box);
  draw();
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied as ${what}.`);
  } catch {
    say("This browser does not allow copying here.", true);
  }
}

async function startCamera() {
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return say("The camera cannot be used. Browsers allow it only on localhost and over HTTPS.", true);
  }
  $("drop").hidden = true;
  $("view").hidden = $("tools").hidden = $("video").hidden = $("shot").hidden = false;
  await $("video").play();
  $("shot").focus();
}

async function takePicture() {
  const video = $("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const file = new File([await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 })], `camera-${state.images.length + 1}.jpg`, {
    type: "image/jpeg",
  });
  for (const track of video.srcObject.getTracks()) track.stop();
  video.hidden = $("shot").hidden = true;
  await add([file]);
}

function connect() {
  const canvas = $("canvas");
  const pointers = new Map();
  const place = (event) => [event.offsetX, event.offsetY];
  $("choose").addEventListener("click", () => $("files").click());
  $("more").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => add($("files").files).then(() => ($("files").value = "")));
  $("camera").addEventListener("click", startCamera);
  $("shot").addEventListener("click", takePicture);
  $("previous").addEventListener("click", () => show(state.current - 1));
  $("next").addEventListener("click", () => show(state.current + 1));
  $("in").addEventListener("click", () => zoom(1.4));
  $("out").addEventListener("click", () => zoom(1 / 1.4));
  $("fit").addEventListener("click", () => ((state.view = null), draw()));
  $("threshold").addEventListener("input", () => setThreshold(Number($("threshold").value)));
  $("learned").addEventListener("change", () => ((state.learned = $("learned").checked), update()));
  for (const id of ["part", "layer", "head"]) $(id).addEventListener("change", draw);
  $("copy-json").addEventListener("click", () => copy(asJson(image(), shown()), "JSON"));
  $("copy-coco").addEventListener("click", () => copy(asCoco(image(), shown(), state.info), "COCO"));
  window.addEventListener("resize", () => image() && ((state.view = null), draw()));
  document.addEventListener("dragover", (event) => (event.preventDefault(), $("drop").classList.add("over")));
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    add(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => event.clipboardData.files.length && add(event.clipboardData.files));
  canvas.addEventListener("wheel", (event) => (event.preventDefault(), zoom(Math.exp(-event.deltaY / 400), place(event))), { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { at: place(event), from: place(event) });
  });
  canvas.addEventListener("pointermove", (event) => {
    const pointer = pointers.get(event.pointerId);
    if (!pointer || !state.view) return;
    const [before, now] = [pointer.at, place(event)];
    const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, other]) => other.at);
    pointer.at = now;
    if (others.length === 1) {
      const distance = (point) => Math.hypot(point[0] - others[0][0], point[1] - others[0][1]);
      return zoom(distance(now) / Math.max(distance(before), 1), others[0]);
    }
    const moved = { ...state.view, left: state.view.left + now[0] - before[0], top: state.view.top + now[1] - before[1] };
    state.view = clampView(moved, size(), { width: canvas.clientWidth, height: canvas.clientHeight });
    draw();
  });
  const up = (event) => {
    const pointer = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (!pointer || !state.view || Math.hypot(pointer.at[0] - pointer.from[0], pointer.at[1] - pointer.from[1]) > 5) return;
    const [x, y] = toImage(state.view, ...pointer.at);
    const under = shown().filter(({ bbox: [left, top, width, height] }) => x >= left && y >= top && x <= left + width && y <= top + height);
    under.sort((a, b) => a.bbox[2] * a.bbox[3] - b.bbox[2] * b.bbox[3]); // the smallest box can only be hit within itself
    choose(under[0] ?? null);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName) || !image()) return;
    const actions = {
      ArrowLeft: () => show(state.current - 1), ArrowRight: () => show(state.current + 1), Escape: () => choose(null),
      "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => ((state.view = null), draw()),
      "[": () => setThreshold(state.threshold - 0.05), "]": () => setThreshold(state.threshold + 0.05),
    };
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
}

async function start() {
  connect();
  for (const id of ["copy-json", "copy-coco"]) $(id).disabled = true;
  try {
    state.info = await model();
  } catch (error) {
    $("model").textContent = error.message;
    return;
  }
  const count = state.info.class_names.length;
  $("model").textContent = `${state.info.name}: ${count} ${count === 1 ? "class" : "classes"}, ${state.info.summary}`;
  document.title = `${state.info.name}: detect objects`;
  if (!state.info.thresholds) $("learned-text").textContent = "0.30 for all classes (the model has no learned thresholds)";
}

start();
