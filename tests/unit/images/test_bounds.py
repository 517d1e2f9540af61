"""Small files that would take much memory or time to decode."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conditional_detr.errors import ImageError
from conditional_detr.images import decoding
from conditional_detr.images.bounds import MOST_PARTS, check_parts, gif_blocks, jpeg_scans, png_chunks, tiff_directories
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
        assert len(tiff_directories(content)) == frames
        if not (is_big and order == ">"):  # Pillow reads no such file
            assert Image.open(io.BytesIO(content)).n_frames == frames
    assert len(tiff_directories(tiff(5000, order, is_big))) == 5000
    assert len(tiff_directories(tiff(5, order, is_big)[:-300])) in (2, 3, 4)  # its end is missing


def test_a_tiff_whose_frames_form_a_circle_ends():
    content = tiff(3)[:-4] + struct.pack("<L", 8)
    assert len(tiff_directories(content)) == 3
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


def test_scans_behind_a_marker_without_length_count():
    """For libjpeg nothing follows the marker TEM; if its length were read, scans would hide in it."""
    plain = progressive(100)
    at = plain.rindex(b"\xff\xda")
    assert jpeg_scans(plain[:at] + b"\xff\x01" + plain[at:]) == 100


def strips(offsets: int, rows: int = 1, height: int = 2) -> bytes:
    """A TIFF file of grey images of 100 px width whose strips are all the same bytes, which are there once."""
    where, long, short = 8 + 2 + 9 * 12 + 4, 4, 3
    tags = {256: (long, 1, 100), 257: (long, 1, height), 258: (short, 1, 8), 259: (short, 1, 1), 262: (short, 1, 1)}
    tags |= {273: (long, offsets, where), 277: (short, 1, 1), 278: (long, 1, rows), 279: (long, offsets, where + 4 * offsets)}
    out = struct.pack("<2sHLH", b"II", 42, 8, len(tags))
    out += b"".join(struct.pack("<HHLL", tag, *values) for tag, values in sorted(tags.items())) + bytes(4)
    pixels = where + 8 * offsets
    return out + struct.pack("<L", pixels) * offsets + struct.pack("<L", 100 * rows) * offsets + bytes(100 * rows)


def test_strips_that_cover_the_same_pixels_are_refused():
    assert decode_bytes(strips(2), "a.tif", ONE_MEGAPIXEL).shape == (2, 100, 3)
    with pytest.raises(ImageError, match="must not have strips or tiles that cover the same pixels"):
        decode_bytes(strips(101), "a.tif", ONE_MEGAPIXEL)


def gif(frames: int) -> bytes:
    return file_of(
        Image.new("L", (1, 1)), "GIF", save_all=True, append_images=[Image.new("L", (1, 1), i % 255) for i in range(frames)]
    )


def test_the_parts_of_a_file_are_counted():
    png = file_of(Image.effect_noise((300, 200), 50), "PNG")
    names = [png[at + 4 : at + 8] for at in png_chunks(png)]
    assert (names[0], set(names[1:-1]), names[-1]) == (b"IHDR", {b"IDAT"}, b"IEND")
    content = gif(5)
    starts = [content[at] for at in gif_blocks(content)]
    assert starts.count(0x2C) == Image.open(io.BytesIO(content)).n_frames > 4
    assert set(starts) == {0x2C, 0x21}


@pytest.mark.parametrize("kind", ["segments", "chunks", "frames", "strips", "directories"])
def test_a_file_of_very_many_parts_is_refused_before_it_is_opened(kind: str, monkeypatch):
    plain = file_of(Image.new("RGB", (8, 8)), "JPEG")
    png = file_of(Image.new("RGB", (8, 8)), "PNG")
    frame = gif(2)[gif(2).rindex(b"!") :][:-1]
    many = MOST_PARTS + 10
    content = {
        "segments": plain[:2] + b"\xff\xe5\0\2" * many + plain[2:],
        "chunks": png[:33] + struct.pack(">L4sL", 0, b"abCd", 0) * many + png[33:],
        "frames": gif(2)[:-1] + frame * many + b";",
        "strips": strips(many, height=many),
        "directories": tiff(many),
    }[kind]
    monkeypatch.setattr(decoding, "open_image", None)
    with pytest.raises(ImageError, match=f"a.x must not have more than {MOST_PARTS} segments, chunks, frames or strips"):
        decode_bytes(content, "a.x", ONE_MEGAPIXEL)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_and_common_files_have_few_parts(kind: str):
    content = file_of(Image.effect_noise((90, 60), 50), kind)
    for length in (*range(40), len(content) // 2, len(content)):
        check_parts(content[:length], "a.x")
    assert decode_bytes(content, "a.x", ONE_MEGAPIXEL).shape == (60, 90, 3)


@pytest.mark.parametrize("kind", ["JPEG2000", "PPM", "TGA", "AVIF"])
def test_formats_whose_cost_is_unknown_are_not_read_from_others(kind: str):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    content = file_of(Image.effect_noise((90, 60), 50).convert("RGB"), kind)
    assert decode_bytes(content, "a.x").shape == (60, 90, 3)
    with pytest.raises(ImageError, match=r"unknown image format \(supported: BMP, GIF, JPEG, MPO, PNG, TIFF, WEBP\)"):
        decode_bytes(content, "a.x", ONE_MEGAPIXEL)


def test_run_lengths_are_refused():
    head = struct.pack("<2sLHHL", b"BM", 200, 0, 0, 54 + 1024) + struct.pack("<LllHHLLllLL", 40, 4, 1, 1, 8, 1, 0, 0, 0, 0, 0)
    content = head + bytes(1024) + b"\4\0\0\1"
    assert decode_bytes(content, "a.bmp").shape == (1, 4, 3)
    with pytest.raises(ImageError, match="run lengths in BMP files"):
        decode_bytes(content, "a.bmp", ONE_MEGAPIXEL)


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
