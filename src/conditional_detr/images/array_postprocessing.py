"""Convert the output of an exported model to scores, labels and boxes in pixels, with NumPy. See also `postprocessing`."""

import numpy as np


def postprocess_arrays(
    logits: np.ndarray, boxes_cxcywh: np.ndarray, sizes_hw: np.ndarray, top_k: int, classification: str
) -> list[dict[str, np.ndarray]]:
    """Convert the output of a detector to the `top_k` best detections of each image. The result is that of `postprocess`.

    Parameters
    ----------
    logits : float32 [B, Q, K]; with "softmax" [B, Q, K + 1], where the last logit means "no object"
    boxes_cxcywh : float32 [B, Q, 4], in [0, 1] of the unpadded image
    sizes_hw : int [B, 2], heights and widths of the original images, px
    top_k : maximum number of detections per image
    classification : "focal" or "softmax"
    """
    best = {"focal": _best_focal, "softmax": _best_softmax}[classification]
    results = []
    for i, (height, width) in enumerate(sizes_hw):
        scores, queries, labels = best(logits[i].astype(np.float32), top_k)
        centre, size = boxes_cxcywh[i, queries, :2], boxes_cxcywh[i, queries, 2:]
        corners = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
        boxes = corners * np.array([width, height, width, height], dtype=np.float32)
        results.append({"scores": scores, "labels": labels, "boxes": boxes, "queries": queries})
    return results


def _best_focal(logits: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):  # the exponential of a large number is infinite, so the score is 0
        scores = (1 / (1 + np.exp(-logits))).ravel()
    index = np.argsort(-scores, kind="stable")[:top_k]
    return scores[index], index // logits.shape[1], index % logits.shape[1]


def _best_softmax(logits: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    scores = (exponentials / exponentials.sum(-1, keepdims=True))[:, :-1]
    labels = scores.argmax(-1)
    best = scores.max(-1)
    queries = np.argsort(-best, kind="stable")[:top_k]
    return best[queries], queries, labels[queries]
