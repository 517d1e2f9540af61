// From the output of the network to detections, as the Python library does it.

const TOP_K = 100; // detections of an image or a tile
const AT_BORDER = 0.01; // share of a tile's side: boxes that end closer to a cut continue in the next tile
const SAME_OBJECT = 0.6; // share of the smaller of two boxes from different tiles: above it, both show the same object

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// The best detections {score, label, box: [x0, y0, x1, y1] px} of an image with this height and width
export function best(logits, boxes, queries, columns, [height, width], classification) {
  const pairs = classification === "focal" ? focal(logits, queries, columns) : softmax(logits, queries, columns);
  pairs.sort((a, b) => b.score - a.score); // stable
  return pairs.slice(0, TOP_K).map(({ score, label, query }) => {
    const [cx, cy, w, h] = boxes.subarray(4 * query, 4 * query + 4);
    return { score, label, box: [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height] };
  });
}

function focal(logits, queries, classes) {
  return Array.from({ length: queries * classes }, (_, i) => ({
    score: Math.fround(sigmoid(logits[i])), label: i % classes, query: Math.floor(i / classes),
  }));
}

function softmax(logits, queries, columns) {
  return Array.from({ length: queries }, (_, query) => {
    const row = logits.subarray(query * columns, (query + 1) * columns);
    const highest = Math.max(...row);
    const exponentials = Array.from(row, (x) => Math.exp(x - highest));
    const sum = exponentials.reduce((a, b) => a + b, 0);
    const scores = exponentials.slice(0, -1).map((x) => x / sum); // the last one is "no object"
    const label = scores.indexOf(Math.max(...scores));
    return { score: Math.fround(scores[label]), label, query };
  });
}

// Parts of an image in which objects are searched: the whole image, then its tiles, if it is larger than one
export function windows([height, width], tile, overlap) {
  const whole = { left: 0, top: 0, right: width, bottom: height };
  if (!tile || Math.max(height, width) <= tile) return [whole];
  const made = [whole];
  for (const top of starts(height, tile, overlap)) {
    for (const left of starts(width, tile, overlap)) {
      made.push({ left, top, right: Math.min(left + tile, width), bottom: Math.min(top + tile, height) });
    }
  }
  return made;
}

function starts(length, tile, overlap) {
  const room = length - tile;
  if (room <= 0) return [0];
  const steps = Math.ceil(room / (tile * (1 - overlap)));
  return Array.from({ length: steps + 1 }, (_, i) => roundHalfEven((room * i) / steps));
}

function roundHalfEven(x) {
  const below = Math.floor(x);
  return x - below !== 0.5 ? Math.round(x) : below + (below % 2);
}

// Join the detections of the windows of an image: see `merged` in the Python library
export function merged(parts, of, tile, overlap) {
  if (parts.length === 1) return parts[0];
  const image = of[0];
  const least = (overlap - 2 * AT_BORDER) * tile; // smaller objects are whole in one of the tiles
  const all = parts.flatMap((part, owner) =>
    part
      .map((found) => {
        const { left, top } = of[owner];
        const [x0, y0, x1, y1] = found.box;
        return { ...found, owner, box: [x0 + left, y0 + top, x1 + left, y1 + top] };
      })
      .filter(({ box: [x0, y0, x1, y1] }) => (owner ? !endsAtCut([x0, y0, x1, y1], of[owner], image) : Math.max(x1 - x0, y1 - y0) > least)),
  );
  all.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const found of all) {
    const isShown = kept.some((other) => other.owner !== found.owner && other.label === found.label && showsSame(other.box, found.box));
    if (!isShown) kept.push(found);
  }
  return kept;
}

function endsAtCut([x0, y0, x1, y1], { left, top, right, bottom }, image) {
  const near = AT_BORDER * Math.max(right - left, bottom - top);
  return (
    (left > image.left && x0 - left < near) || (top > image.top && y0 - top < near) ||
    (right < image.right && right - x1 < near) || (bottom < image.bottom && bottom - y1 < near)
  );
}

const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);

function shared(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  return Math.max(width, 0) * Math.max(height, 0);
}

const showsSame = (a, b) => shared(a, b) > SAME_OBJECT * Math.min(area(a), area(b));

// Without detections that overlap one of the same class and a higher score by more than this IoU; null = all
export function notSuppressed(detections, iou) {
  if (iou === null) return detections;
  const kept = [];
  for (const found of detections) {
    const overlaps = ({ label, box }) => {
      const both = shared(box, found.box);
      return label === found.label && both > iou * (area(box) + area(found.box) - both);
    };
    if (!kept.some(overlaps)) kept.push(found);
  }
  return kept;
}

export const clipped = ([x0, y0, x1, y1], [height, width]) => [
  Math.min(Math.max(x0, 0), width), Math.min(Math.max(y0, 0), height), Math.min(Math.max(x1, 0), width), Math.min(Math.max(y1, 0), height),
];
