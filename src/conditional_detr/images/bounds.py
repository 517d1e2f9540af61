"""What decoding an image costs, read from its file before any pixel is decoded. A small file can need much memory or time."""

import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image

from conditional_detr.errors import ImageError

# Formats of files from others. JPEG 2000 and AVIF can need far more memory than their size says, and PPM can hold text.
BOUNDED_FORMATS = ("JPEG", "PNG", "MPO", "BMP", "GIF", "TIFF", "WEBP")
PASSES = 20  # how often all pixels of the largest image may be decoded; a progressive JPEG has about 10 scans
MOST_PARTS = 20_000  # segments, chunks, frames or strips of a file; Pillow reads them one by one
TILE_SIZE = (322, 323)  # TIFF tags: width and height of a tile
OFFSETS = (273, 324)  # TIFF tags: where strips or tiles are
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # of a JPEG. Those left out have no length, or are data of a scan
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
GIF_HEADER, GIF_IMAGE, GIF_EXTENSION = 13, 0x2C, 0x21  # length of the header, and what blocks start with


def check_parts(data: bytes, name: str) -> None:
    """Check that a file has not so many parts that even opening it takes long.

    Parameters
    ----------
    data : content of the file
    name : what to call it in messages

    Raises
    ------
    ImageError : it has too many
    """
    if data[:2] == b"\xff\xd8":
        parts = sum(1 for _ in islice(jpeg_markers(data), MOST_PARTS + 1))
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        parts = sum(1 for _ in islice(png_chunks(data), MOST_PARTS + 1))
    elif data[:4] == b"GIF8":
        parts = sum(1 for _ in islice(gif_blocks(data), MOST_PARTS + 1))
    elif data[:2] in (b"II", b"MM"):
        directories = tiff_directories(data)
        parts = max([len(directories), *(strips_of(data, directories[0]) if directories else ())])  # only the first is decoded
    else:
        return
    if parts > MOST_PARTS:
        raise ImageError(f"{name} must not have more than {MOST_PARTS} segments, chunks, frames or strips")


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
    frames = max(1, len(tiff_directories(data))) if image.format == "TIFF" else getattr(image, "n_frames", 1)
    if pixels * frames > max_pixels:
        of = f" in {frames} frames" if frames > 1 else ""
        raise ImageError(f"{name} must not have more than {max_pixels} pixels: it has {image.width} x {image.height}{of}")
    if image.format == "TIFF":
        width, height = (int(image.tag_v2.get(tag, 0)) for tag in TILE_SIZE)  # type: ignore[attr-defined]
        if width * height > max_pixels:
            raise ImageError(f"{name} must not have tiles of more than {max_pixels} pixels: they have {width} x {height}")
        areas = [(each.extents[2] - each.extents[0]) * (each.extents[3] - each.extents[1]) for each in tiles_of(image)]
        if sum(areas) > len(image.getbands()) * pixels:
            raise ImageError(f"{name} must not have strips or tiles that cover the same pixels")
    if any(each.codec_name == "bmp_rle" for each in tiles_of(image)):
        raise ImageError(f"{name} must not be compressed: run lengths in BMP files are slow to decode")
    if image.format in ("JPEG", "MPO") and pixels * (scans := jpeg_scans(data)) > PASSES * max_pixels:
        raise ImageError(f"{name} must not have as many as {scans} scans: that is too slow to decode")


def tiles_of(image: Image.Image) -> list[Any]:
    """What Pillow will decode, piece by piece."""
    return list(getattr(image, "tile", None) or [])


class Layout(NamedTuple):
    """How the numbers of a TIFF file are written, as formats of `struct`."""

    first: int
    count: str
    entry: str
    link: str


def tiff_layout(data: bytes) -> Layout:
    """The layout of a TIFF file, from its header."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"\x2b\0", b"\0\x2b"):  # BigTIFF
        return Layout(8, order + "Q", order + "HHQQ", order + "Q")
    return Layout(4, order + "H", order + "HHLL", order + "L")


def tiff_directories(data: bytes) -> list[int]:
    """Offsets of the images in a TIFF file, at most `MOST_PARTS` + 1.

    To count them, Pillow reads the tags of each, in a time that grows with the square.
    """
    layout = tiff_layout(data)
    seen: dict[int, None] = {}
    try:
        (at,) = struct.unpack_from(layout.link, data, layout.first)
        while at and at not in seen and len(seen) <= MOST_PARTS:
            (entries,) = struct.unpack_from(layout.count, data, at)
            seen[at] = None
            after = at + struct.calcsize(layout.count) + struct.calcsize(layout.entry) * entries
            (at,) = struct.unpack_from(layout.link, data, after)
    except struct.error:  # the file ends, or an offset leads out of it
        pass
    return list(seen)


def strips_of(data: bytes, directory: int) -> list[int]:
    """Numbers of entries, and of strips or tiles, of an image in a TIFF file."""
    layout = tiff_layout(data)
    (entries,) = struct.unpack_from(layout.count, data, directory)
    found, start, size = [entries], directory + struct.calcsize(layout.count), struct.calcsize(layout.entry)
    for number in range(min(entries, MOST_PARTS)):
        try:
            tag, _, length, _ = struct.unpack_from(layout.entry, data, start + number * size)
        except struct.error:
            break
        if tag in OFFSETS:
            found.append(length)
    return found


def jpeg_markers(data: bytes) -> Iterator[int]:
    """The markers of the first image in a JPEG file that have a length. The last one may be END_OF_IMAGE."""
    at = 2
    while found := MARKER.search(data, at):
        yield (marker := data[found.end() - 1])
        if marker == END_OF_IMAGE:
            return
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))


def jpeg_scans(data: bytes) -> int:
    """Number of scans of the first image in a JPEG file."""
    return sum(marker == START_OF_SCAN for marker in jpeg_markers(data))


def png_chunks(data: bytes) -> Iterator[int]:
    """Offsets of the chunks of a PNG file."""
    at = 8
    while at + 8 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def gif_blocks(data: bytes) -> Iterator[int]:
    """Offsets of the images and extensions of a GIF file."""
    at = GIF_HEADER + colours_bytes(data[10:11])
    while at < len(data) and data[at] in (GIF_IMAGE, GIF_EXTENSION):
        yield at
        is_image = data[at] == GIF_IMAGE
        at += 11 + colours_bytes(data[at + 9 : at + 10]) if is_image else 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1


def colours_bytes(flags: bytes) -> int:
    """Length of the colour table that the flags of a GIF file or of one of its images announce."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
