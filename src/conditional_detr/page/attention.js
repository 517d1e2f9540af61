// Attention maps, as the server sends them.

export const PARTS = ["combined", "spatial", "content"];

const bytes = (text) => (text ? Uint8Array.from(atob(text), (character) => character.charCodeAt(0)) : null);

// The detections of an answer, with each map as bytes [layer, head, row, column].
export function unpacked({ detections }) {
  return detections.map((found) => ({
    ...found,
    maps: { ...found.maps, ...Object.fromEntries(PARTS.map((part) => [part, bytes(found.maps[part])])) },
  }));
}

// The maps of a detection among those that were explained; null if it was not.
export function mapsOf(found, explained) {
  const isSame = (each) =>
    each.category_id === found.category_id && Math.abs(each.score - found.score) < 0.01 &&
    each.bbox.every((value, i) => Math.abs(value - found.bbox[i]) < 1);
  return explained.find(isSame)?.maps ?? null;
}
