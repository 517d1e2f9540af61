// Mouse, fingers and keys: what they mean for an image on a canvas.

const TAP = 5; // px that a pointer may move in a tap

// Calls moved(dx, dy), zoomed(factor, [x, y]) and tapped([x, y]), in px of the canvas.
export function onPointers(canvas, { moved, zoomed, tapped }) {
  const pointers = new Map();
  const place = (event) => [event.offsetX, event.offsetY];
  const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  canvas.addEventListener("wheel", (event) => (event.preventDefault(), zoomed(Math.exp(-event.deltaY / 400), place(event))), {
    passive: false,
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { at: place(event), from: place(event), isTap: true });
    if (pointers.size > 1) for (const each of pointers.values()) each.isTap = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const pointer = pointers.get(event.pointerId);
    if (!pointer) return;
    const [before, now] = [pointer.at, place(event)];
    pointer.at = now;
    pointer.isTap &&= distance(now, pointer.from) <= TAP;
    const others = [...pointers.values()].filter((each) => each !== pointer);
    if (others.length === 1) zoomed(distance(now, others[0].at) / Math.max(distance(before, others[0].at), 1), others[0].at);
    else if (!pointer.isTap) moved(now[0] - before[0], now[1] - before[1]);
  });
  canvas.addEventListener("pointerup", (event) => {
    const pointer = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (pointer?.isTap) tapped(pointer.at);
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
}

// Calls the function of a key, which has "Shift+" before its name if Shift is held with an arrow.
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const action = actions[event.shiftKey && event.key.startsWith("Arrow") ? `Shift+${event.key}` : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

// Calls added(files) for files that are dropped or pasted anywhere.
export function onFiles(added) {
  const mark = (isOver) => document.body.classList.toggle("over", isOver);
  document.addEventListener("dragover", (event) => (event.preventDefault(), mark(true)));
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    added(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => event.clipboardData.files.length && added(event.clipboardData.files));
}
