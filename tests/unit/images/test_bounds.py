"""Small files that would take much memory or time to decode."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conditional_detr.errors import ImageError
from conditional_detr.images import decoding
from conditional_detr.images.bounds import jpeg_scans, tiff_frames
from conditional_detr.images.decoding import decode_bytes

ONE_MEGAPIXEL = 1_000_000


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(frames: int, order: str = "<", is_big: bool = False, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """A TIFF file of grey images of 1 x 1 px."""
    own = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 4, 277: 1, 278: 1, 279: 1, **dict(tags)}
    count, entry, link = ("Q", "HHQQ", "Q") if is_big else ("H", "HHLL", "L")
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if is_big else struct.pack(order + "HL", 42, 8)
    out = bytearray((b"II" if order == "<" else b"MM") + head)
    kind = 16 if is_big else 4
    size = struct.calcsize("=" + count) + len(own) * struct.calcsize("=" + entry) + struct.calcsize("=" + link)
    for number in range(frames):
        out += struct.pack(order + count, len(own))
        out += b"".join(struct.pack(order + entry, tag, kind, 1, value) for tag, value in sorted(own.items()))
        out += struct.pack(order + link, len(out) + struct.calcsize("=" + link) if number < frames - 1 else 0)
    assert len(out) == (16 if is_big else 8) + frames * size
    return bytes(out)


def progressive(scans: int, side: int = 400) -> bytes:
    """A JPEG file whose last scan is there many times. Each of them takes few bytes, and a time that grows with the pixels."""
    plain = file_of(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * (scans - plain.count(b"\xff\xda")) + plain[-2:]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_the_frames_of_a_tiff_are_counted(order: str, is_big: bool):
    for frames in (1, 2, 7):
        content = tiff(frames, order, is_big)
        assert tiff_frames(content) == frames
        if not (is_big and order == ">"):  # Pillow reads no such file
            assert Image.open(io.BytesIO(content)).n_frames == frames
    assert tiff_frames(tiff(5000, order, is_big)) == 5000
    assert tiff_frames(tiff(5, order, is_big)[:-300]) in (2, 3, 4)  # its end is missing


def test_a_tiff_whose_frames_form_a_circle_ends():
    content = tiff(3)[:-4] + struct.pack("<L", 8)
    assert tiff_frames(content) == 3
    assert decode_bytes(content, "a.tif", ONE_MEGAPIXEL).shape == (1, 1, 3)


def test_frames_that_are_not_decoded_count_too():
    assert decode_bytes(tiff(1000), "a.tif", 1000).shape == (1, 1, 3)
    with pytest.raises(ImageError, match="a.tif must not have more than 999 pixels: it has 1 x 1 in 1000 frames"):
        decode_bytes(tiff(1000), "a.tif", 999)


def test_a_large_tile_of_a_small_tiff_is_refused():
    side = 2000
    tile = zlib.compress(bytes(side * side))
    tags = ((256, 10), (257, 10), (259, 8), (322, side), (323, side), (324, 200), (325, len(tile)))
    content = tiff(1, tags=tags).ljust(200, b"\0") + tile
    assert decode_bytes(content, "a.tif", side * side).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="must not have tiles of more than 1000000 pixels: they have 2000 x 2000"):
        decode_bytes(content, "a.tif", ONE_MEGAPIXEL)


def test_the_scans_of_a_jpeg_are_counted():
    plain = file_of(Image.effect_noise((200, 100), 50), "JPEG", quality=95)
    assert jpeg_scans(plain) == 1
    assert jpeg_scans(plain[:-2] + b"\xff\xff\xff\xd9" + b"\xff\xda" * 50) == 1  # after its end, as in a motion photo
    assert jpeg_scans(file_of(Image.open(io.BytesIO(plain)), "JPEG", exif=b"Exif\0\0" + b"\xff\xda" * 50)) == 1
    assert jpeg_scans(file_of(Image.open(io.BytesIO(plain)).convert("RGB"), "JPEG", progressive=True)) == 10
    assert jpeg_scans(plain[:-60]) == 1
    assert jpeg_scans(b"\xff\xd8") == jpeg_scans(b"") == 0
    assert jpeg_scans(progressive(1234)) == 1234


def test_a_jpeg_with_very_many_scans_is_refused():
    assert decode_bytes(progressive(100), "a.jpg", ONE_MEGAPIXEL).shape == (400, 400, 3)
    with pytest.raises(ImageError, match="a.jpg must not have as many as 200 scans: that is too slow to decode"):
        decode_bytes(progressive(200), "a.jpg", ONE_MEGAPIXEL)


def test_limits_are_for_files_of_others_only():
    assert decode_bytes(tiff(2), "a.tif").shape == (1, 1, 3)
    assert decode_bytes(progressive(200), "a.jpg").shape == (400, 400, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "CMYK", "1", "I;16", "I", "F"])
def test_a_large_image_is_converted_in_blocks_to_the_same_pixels(mode: str, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        content = file_of(Image.fromarray((values[..., 0].astype(kind) * 257).astype(kind)), "TIFF")
    else:
        content = file_of(Image.fromarray(values).convert(mode), "TIFF", exif={274: 6})
    whole = decode_bytes(content, "a.tif")
    monkeypatch.setattr(decoding, "BLOCK_PIXELS", 70)
    np.testing.assert_array_equal(decode_bytes(content, "a.tif"), whole)
    assert whole.std() > 40


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IndexError("list index out of range"), "its data is damaged"),
        (OSError("decoder error -2"), "its data is damaged"),
        (OSError("image file is truncated"), "image file is truncated"),
        (struct.error("unpack requires a buffer of 4 bytes"), "its data is damaged"),
        (MemoryError(), "it needs more memory than there is"),
        (OSError(), "its data is damaged"),
    ],
)
def test_the_reason_is_a_sentence(error: Exception, text: str, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr(decoding, "open_image", broken)
    with pytest.raises(ImageError, match=f"^a.png cannot be read as an image: {text}$"):
        decode_bytes(b"x", "a.png")
