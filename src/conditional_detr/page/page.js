// The page: images in, boxes out. The detector behind it is in backend.js.
import { mapsOf, PARTS, unpacked } from "./attention.js";
import { detect, explain, model } from "./backend.js";
import { picture, startCamera, stopCamera } from "./camera.js";
import { colourOf, draw, roomOf } from "./drawing.js";
import { clampView, fitted, toImage, zoomed } from "./geometry.js";
import { onFiles, onKeys, onPointers } from "./gestures.js";
import { asCoco, asJson, DEFAULT, visible } from "./results.js";

const LOWEST = 0.05; // score from which detections are fetched; the slider chooses among them
const STEP = 0.05; // of the threshold, by a key
const ZOOM = 1.4;
const PAN = 60; // px

const $ = (id) => document.getElementById(id);
const state = {
  info: null, images: [], current: 0, learned: true, threshold: DEFAULT, hiddenClasses: new Set(), chosen: null, view: null,
};
const ready = model();

const colour = (categoryId) => colourOf(state.info, categoryId);
const image = () => state.images[state.current];
const shown = () => (image()?.result ? visible(image().result.detections, state) : []);
const lowest = () => Math.min(LOWEST, ...(state.info.thresholds ?? []));

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
  const focused = document.activeElement;
  endCamera();
  const added = chosen.map((file) => ({ file, name: file.name || "image.png", result: null, bitmap: null, error: null, maps: null }));
  state.images.push(...added);
  show(state.images.length - added.length);
  if (focused !== document.body && !focused.checkVisibility()) $("canvas").focus(); // a button that is gone had it
  for (const entry of added) await load(entry);
}

async function load(entry) {
  try {
    state.info ??= await ready;
    [entry.bitmap, entry.result] = await Promise.all([
      createImageBitmap(entry.file, { imageOrientation: "from-image" }).catch(() => null),
      detect(entry.file, lowest()),
    ]);
    if (!entry.bitmap) entry.error = "This browser cannot show the image, but its detections are listed.";
  } catch (error) {
    entry.error = error.message;
  }
  if (entry === image()) show(state.current);
}

function show(number) {
  if (!state.images.length) return;
  state.current = Math.min(Math.max(number, 0), state.images.length - 1);
  state.chosen = state.view = null;
  $("drop").hidden = true;
  $("view").hidden = $("tools").hidden = $("results").hidden = false;
  $("position").textContent = `${state.current + 1} of ${state.images.length}`;
  $("previous").disabled = state.current === 0;
  $("next").disabled = state.current === state.images.length - 1;
  listClasses();
  update();
}

// Lists

function listClasses() {
  const found = new Set(image().result?.detections.map((each) => each.category_id));
  const names = state.info ? state.info.category_ids.map((id, i) => [id, state.info.class_names[i]]) : [];
  $("classes").hidden = !found.size || names.length < 2;
  const listed = names.filter(([id]) => found.has(id));
  $("class-list").replaceChildren(
    ...listed.map(([id, name]) => {
      const box = element("input", { type: "checkbox", checked: !state.hiddenClasses.has(id) });
      box.addEventListener("change", () => {
        state.hiddenClasses[box.checked ? "delete" : "add"](id);
        update();
      });
      return element("label", { className: "row" }, box, swatch(id), element("span", { className: "name" }, name));
    }),
  );
}

function listDetections(found) {
  const focused = [...$("detections").children].findIndex((item) => item.contains(document.activeElement));
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
  if (focused >= 0) ($("detections").children[focused]?.firstChild ?? $("canvas")).focus();
}

function update() {
  $("threshold").value = state.threshold;
  $("threshold-text").textContent = state.learned ? "–" : state.threshold.toFixed(2);
  $("learned").checked = state.learned;
  const entry = image();
  if (!entry) return;
  const found = shown();
  if (!found.includes(state.chosen)) state.chosen = null;
  $("attention").hidden = !state.chosen || !state.info.explains;
  listDetections(found);
  for (const id of ["copy-json", "copy-coco"]) $(id).disabled = !entry.result;
  if (entry.error) say(entry.error, !entry.result);
  else say(entry.result ? `${found.length} of ${entry.result.detections.length} detections are shown.` : "Detecting…");
  redraw();
}

// The image

function size() {
  const { width, height } = image().result ?? image().bitmap ?? { width: 1, height: 1 };
  return { width, height };
}

function redraw() {
  const entry = image();
  if (!entry?.bitmap && !entry?.result) return $("canvas").setAttribute("aria-label", "No image");
  const boxes = shown();
  const { bitmap, name } = entry;
  const scene = { bitmap, size: size(), view: state.view, boxes, chosen: state.chosen, colour, attention: attention() };
  state.view = draw($("canvas"), scene);
  const isWhole = state.view.scale <= fitted(size(), roomOf($("canvas"))).scale;
  $("canvas").classList.toggle("whole", isWhole);
  $("canvas").setAttribute("aria-label", `${name} with ${boxes.length} ${boxes.length === 1 ? "detection" : "detections"}`);
}

function look(view) {
  if (!state.view) return;
  state.view = view && clampView(view, size(), roomOf($("canvas")));
  redraw();
}

function zoom(factor, at = null) {
  const { width, height } = roomOf($("canvas"));
  if (state.view) look(zoomed(state.view, factor, at ?? [width / 2, height / 2]));
}

function move(dx, dy) {
  if (state.view) look({ ...state.view, left: state.view.left + dx, top: state.view.top + dy });
}

function chooseAt(point) {
  if (!state.view) return;
  const [x, y] = toImage(state.view, ...point);
  const under = shown().filter(({ bbox: [left, top, width, height] }) => x >= left && y >= top && x <= left + width && y <= top + height);
  under.sort((a, b) => a.bbox[2] * a.bbox[3] - b.bbox[2] * b.bbox[3]); // the smallest box can only be hit within itself
  choose(under[0] ?? null);
}

// Attention

function attention() {
  const maps = state.chosen && image().maps && mapsOf(state.chosen, image().maps);
  const values = maps?.[$("part").value];
  return values ? { maps, values, index: Number($("layer").value) * maps.heads + Number($("head").value) } : null;
}

async function choose(found) {
  state.chosen = found;
  const entry = image();
  update();
  if (!found || !state.info.explains) return;
  if (!entry.maps) {
    $("attention-status").textContent = "Computing…";
    try {
      entry.maps = unpacked(await explain(entry.file, lowest()));
    } catch (error) {
      $("attention-status").textContent = error.message;
      return;
    }
  }
  if (state.chosen !== found) return;
  const maps = mapsOf(found, entry.maps);
  $("attention-status").textContent = maps ? "" : "Only the 30 best detections of an image are explained.";
  if (maps) {
    options($("part"), PARTS.filter((part) => maps[part]).map((part) => [part, part]));
    options($("layer"), Array.from({ length: maps.layers }, (_, i) => [i, i + 1]), maps.layers - 1);
    options($("head"), Array.from({ length: maps.heads }, (_, i) => [i, i + 1]));
  }
  for (const id of ["part", "layer", "head"]) $(id).disabled = !maps;
  redraw();
}

function options(select, values, usual = values[0][0]) {
  const before = select.value;
  select.replaceChildren(...values.map(([value, text]) => element("option", { value }, String(text))));
  select.value = values.some(([value]) => String(value) === before) ? before : String(usual);
}

// Input

function setThreshold(value) {
  state.learned = false;
  state.threshold = Math.min(Math.max(value, Number($("threshold").min)), Number($("threshold").max));
  update();
}

async function copy(text, what) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyAsSelection(text); // only pages of localhost and over HTTPS have a clipboard
    say(`Copied as ${what}.`);
  } catch {
    say("This browser does not allow copying here.", true);
  }
}

function copyAsSelection(text) {
  const before = document.activeElement;
  const area = element("textarea", { value: text });
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  before.focus();
  if (!isDone) throw new Error("not allowed");
}

async function beginCamera() {
  try {
    await startCamera($("video"));
  } catch {
    return say("The camera cannot be used. Browsers allow it only on localhost and over HTTPS.", true);
  }
  $("drop").hidden = true;
  $("view").hidden = $("tools").hidden = $("video").hidden = $("shot").hidden = false;
  $("shot").focus();
}

function endCamera() {
  if ($("video").hidden) return;
  stopCamera($("video"));
  $("video").hidden = $("shot").hidden = true;
  if (!state.images.length) {
    $("view").hidden = $("tools").hidden = true;
    $("drop").hidden = false;
  }
}

function connectControls() {
  const actions = {
    choose: () => $("files").click(), more: () => $("files").click(), camera: beginCamera, again: beginCamera,
    shot: async () => add([await picture($("video"), `camera-${state.images.length + 1}.jpg`)]),
    previous: () => show(state.current - 1), next: () => show(state.current + 1),
    in: () => zoom(ZOOM), out: () => zoom(1 / ZOOM), fit: () => look(null),
    "copy-json": () => copy(asJson(image(), shown()), "JSON"), "copy-coco": () => copy(asCoco(image(), shown(), state.info), "COCO"),
  };
  for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
  $("files").addEventListener("change", () => {
    const chosen = [...$("files").files];
    $("files").value = ""; // so that the same file can be chosen again
    if (chosen.length) add(chosen);
  });
  $("threshold").addEventListener("input", () => setThreshold(Number($("threshold").value)));
  $("learned").addEventListener("change", () => ((state.learned = $("learned").checked), update()));
  for (const id of ["part", "layer", "head"]) $(id).addEventListener("change", redraw);
  window.addEventListener("resize", () => look(null));
}

function connectKeys() {
  onKeys({
    ArrowLeft: () => show(state.current - 1), ArrowRight: () => show(state.current + 1),
    "Shift+ArrowLeft": () => move(PAN, 0), "Shift+ArrowRight": () => move(-PAN, 0),
    "Shift+ArrowUp": () => move(0, PAN), "Shift+ArrowDown": () => move(0, -PAN),
    "+": () => zoom(ZOOM), "=": () => zoom(ZOOM), "-": () => zoom(1 / ZOOM), 0: () => look(null),
    "[": () => setThreshold(state.threshold - STEP), "]": () => setThreshold(state.threshold + STEP),
    Escape: () => (endCamera(), image() && choose(null)),
  });
}

function thresholdsAsText({ thresholds }) {
  if (!thresholds) return `${DEFAULT.toFixed(2)} for all classes (the model has no learned thresholds)`;
  return new Set(thresholds).size > 1 ? "as learned for each class" : `${thresholds[0].toFixed(2)} for all classes`;
}

async function start() {
  connectControls();
  connectKeys();
  onPointers($("canvas"), { moved: move, zoomed: zoom, tapped: chooseAt });
  onFiles(add);
  try {
    state.info = await ready;
  } catch (error) {
    $("model").textContent = error.message;
    return;
  }
  const count = state.info.class_names.length;
  $("model").textContent = `${state.info.name}: ${count} ${count === 1 ? "class" : "classes"}, ${state.info.summary}`;
  document.title = `${state.info.name}: detect objects`;
  $("learned-text").textContent = thresholdsAsText(state.info);
}

start();
