// The part of an image that is seen: {left, top, scale}, with the place of its corner on the screen and screen px per image px.

export function fitted(image, box) {
  const scale = Math.min(box.width / image.width, box.height / image.height);
  return { scale, left: (box.width - image.width * scale) / 2, top: (box.height - image.height * scale) / 2 };
}

export const toScreen = ({ left, top, scale }, x, y) => [left + x * scale, top + y * scale];

export const toImage = ({ left, top, scale }, x, y) => [(x - left) / scale, (y - top) / scale];

// Zoom by a factor around a point on the screen, which stays where it is.
export function zoomed(view, factor, [x, y]) {
  return { scale: view.scale * factor, left: x - (x - view.left) * factor, top: y - (y - view.top) * factor };
}

// Keep the scale between a whole image and 40 screen px for an image px, and a part of the image on the screen.
export function clampView(view, image, box) {
  const whole = fitted(image, box);
  if (view.scale <= whole.scale) return whole;
  const scale = Math.min(view.scale, 40);
  const within = (start, length, room) =>
    length * scale <= room ? (room - length * scale) / 2 : Math.min(0, Math.max(start, room - length * scale));
  return { scale, left: within(view.left, image.width, box.width), top: within(view.top, image.height, box.height) };
}
