"""What decoding an image costs, read from its file before any pixel is decoded. A small file can need much memory or time."""

import re
import struct

from PIL import Image

from conditional_detr.errors import ImageError

PASSES = 20  # how often all pixels of the largest image may be decoded; a progressive JPEG has about 10 scans
TILE_SIZE = (322, 323)  # TIFF tags: width and height of a tile
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a JPEG; among the data of a scan, only 00, D0 to D7 and FF follow FF
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def check_bounds(image: Image.Image, data: bytes, name: str, max_pixels: int) -> None:
    """Check what it costs to decode an opened image, whose pixels are not loaded yet.

    Parameters
    ----------
    data : content of the file
    name : what to call it in messages
    max_pixels : largest number of pixels. The frames of an animation count together, and so do the scans of a JPEG file, up to
        `PASSES` times this number

    Raises
    ------
    ImageError : it costs too much
    """
    pixels = image.width * image.height
    frames = tiff_frames(data) if image.format == "TIFF" else getattr(image, "n_frames", 1)
    if pixels * frames > max_pixels:
        of = f" in {frames} frames" if frames > 1 else ""
        raise ImageError(f"{name} must not have more than {max_pixels} pixels: it has {image.width} x {image.height}{of}")
    if image.format == "TIFF":
        width, height = (int(image.tag_v2.get(tag, 0)) for tag in TILE_SIZE)  # type: ignore[attr-defined]
        if width * height > max_pixels:
            raise ImageError(f"{name} must not have tiles of more than {max_pixels} pixels: they have {width} x {height}")
    if image.format in ("JPEG", "MPO") and pixels * (scans := jpeg_scans(data)) > PASSES * max_pixels:
        raise ImageError(f"{name} must not have as many as {scans} scans: that is too slow to decode")


def tiff_frames(data: bytes) -> int:
    """Number of images in a TIFF file. Pillow reads the tags of each to count them, in a time that grows with the square."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"\x2b\0", b"\0\x2b"):  # BigTIFF
        first, count, entry, link = 8, order + "Q", 20, order + "Q"
    else:
        first, count, entry, link = 4, order + "H", 12, order + "L"
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(link, data, first)
        while at and at not in seen:
            (entries,) = struct.unpack_from(count, data, at)
            seen.add(at)
            (at,) = struct.unpack_from(link, data, at + struct.calcsize(count) + entry * entries)
    except struct.error:  # the file ends, or an offset leads out of it
        pass
    return max(1, len(seen))


def jpeg_scans(data: bytes) -> int:
    """Number of scans of the first image in a JPEG file."""
    scans, at = 0, 2
    while (found := MARKER.search(data, at)) and data[found.end() - 1] != END_OF_IMAGE:
        scans += data[found.end() - 1] == START_OF_SCAN
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        at = found.end() + max(2, length)
    return scans
