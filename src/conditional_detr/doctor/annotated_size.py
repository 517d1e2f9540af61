"""Images whose size or orientation has changed since they were annotated."""

from typing import Any

from conditional_detr.doctor.image_scan import ImageScan
from conditional_detr.images.header import ROTATED

Box = list[float]


def is_rotated(image: dict[str, Any], scan: ImageScan) -> bool:
    """Whether an image's annotations were made before its EXIF rotation."""
    is_square = scan.width == scan.height
    return (image["width"], image["height"]) == (scan.height, scan.width) and scan.orientation in ROTATED and not is_square


def is_resized(image: dict[str, Any], scan: ImageScan) -> bool:
    """Whether an image differs from the annotated size but has the same aspect ratio (within a pixel)."""
    return abs(image["width"] * scan.height / image["height"] - scan.width) < 1 and not is_rotated(image, scan)


def to_current_image(bbox: Box, image: dict[str, Any], scan: ImageScan) -> Box:
    """Convert a box to the current size and orientation of its image, which may differ from those at the time of annotation."""
    if is_rotated(image, scan):
        return rotated(bbox, scan)
    across, down = scan.width / image["width"], scan.height / image["height"]
    return bbox if across == down == 1 else [bbox[0] * across, bbox[1] * down, bbox[2] * across, bbox[3] * down]


def rotated(bbox: Box, scan: ImageScan) -> Box:
    """Convert a box (x, y, w, h, px) from the stored image to the image after EXIF rotation (orientation 5 to 8)."""
    x, y, w, h = bbox
    # (x, y) becomes (y, x) for 5, (W − y, x) for 6, (W − y, H − x) for 7, (y, H − x) for 8. W, H: size after rotation.
    left = scan.width - y - h if scan.orientation in (6, 7) else y
    top = scan.height - x - w if scan.orientation in (7, 8) else x
    return [left, top, h, w]


def to_current(row: dict[str, Any], image: dict[str, Any], scan: ImageScan) -> dict[str, Any]:
    """Convert an annotation of `Clean.annotations` to the current size and orientation of its image.

    Masks and keypoints of a box that changes are dropped, because only the box is converted.
    """
    box = to_current_image(row["bbox"], image, scan)
    if box == row["bbox"]:
        return row
    return {key: value for key, value in row.items() if key not in ("segmentation", "keypoints")} | {"bbox": box}
