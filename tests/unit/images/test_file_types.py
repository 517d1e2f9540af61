"""Which files are images: formats, suffixes, hidden files."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conditional_detr.errors import ConfigError, ImageError
from conditional_detr.images.decoding import decode
from conditional_detr.images.file_types import IMAGE_FORMATS, IMAGE_SUFFIXES, folder_contents, is_visible, is_visible_in_list
from conditional_detr.images.header import size_of
from conditional_detr.inference.predict import find_images

WRITTEN = {
    "BMP": ".bmp", "GIF": ".gif", "JPEG": ".jfif", "JPEG2000": ".jp2", "MPO": ".mpo", "PNG": ".PNG", "PPM": ".pgm",
    "TIFF": ".tif", "WEBP": ".webp", "AVIF": ".avif", "TGA": ".tga",
}  # fmt: skip


def test_each_format_is_known_by_a_suffix():
    Image.init()
    known = {suffix: name for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS}
    assert known.keys() - IMAGE_SUFFIXES <= {".avifs", ".pfm", ".dib"}  # a film; floating-point values; a part of a file
    assert known.keys() >= IMAGE_SUFFIXES
    assert WRITTEN.keys() == set(IMAGE_FORMATS)


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_is_read(tmp_path, name: str):
    file = tmp_path / f"a{WRITTEN[name]}"
    pixels = np.full((12, 16, 3), (200, 200, 200), np.uint8)
    Image.fromarray(pixels).save(file, format=name)
    assert size_of(file) == (16, 12)
    assert np.abs(decode(file).permute(1, 2, 0).numpy().astype(int) - pixels).max() < 8
    assert find_images([str(tmp_path)]) == [str(file)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", b"%PDF-1.4\n1 0 obj\n"]
)
def test_formats_for_which_other_programs_are_started_are_never_opened(tmp_path, monkeypatch, head: bytes, suffix: str):
    """Pillow gives EPS to Ghostscript, whatever the suffix of the file is."""
    file = tmp_path / f"a{suffix}"
    file.write_bytes(head)

    def start(*words: object, **options: object) -> None:
        raise AssertionError(f"started {words}")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(subprocess, "check_call", start)
    with pytest.raises(ImageError, match="unknown image format .supported: AVIF, BMP, GIF"):
        decode(file)
    assert size_of(file) is None
    if head.startswith(b"%!PS"):
        with Image.open(file) as opened, pytest.raises(ImageError, match="PIL image of the format EPS is not decoded"):
            decode(opened)


def test_a_pil_image_of_another_format_is_read_once_it_is_converted(tmp_path):
    Image.new("RGB", (16, 16), (9, 8, 7)).save(tmp_path / "a.ico")
    with Image.open(tmp_path / "a.ico") as opened:
        with pytest.raises(ImageError, match=r"format ICO .*pass image.convert\('RGB'\)"):
            decode(opened)
        assert decode(opened.convert("RGB"))[:, 3, 3].tolist() == [9, 8, 7]


def test_hidden_files_are_no_images(tmp_path):
    names = ["._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/a.jpg", "b/.c/a.jpg", "Thumbs.db", ".DS_Store"]
    for name in [*names, "a.JPG", "b/a.png", "notes.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    contents = folder_contents(tmp_path)
    assert contents == ([tmp_path / "a.JPG", tmp_path / "b" / "a.png"], [tmp_path / "notes.md"])
    assert not any(is_visible(name) for name in names)
    assert is_visible("../a.jpg")
    assert [is_visible_in_list(name) for name in ("/home/u/.cache/a.jpg", "__MACOSX\\a.jpg", "x/._a.jpg")] == [
        True,
        False,
        False,
    ]


def test_a_hidden_folder_may_be_asked_for(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.jpg").touch()
    assert folder_contents(tmp_path / ".data").images == [tmp_path / ".data" / "a.jpg"]


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.jpg").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert folder_contents(tmp_path / "set").images == [tmp_path / "set" / "more" / "a.jpg"]


def test_what_a_folder_has_beside_images_is_said(tmp_path):
    said: list[str] = []
    for name in ("a.heic", "b.HEIC", "c.svg", "labels.json"):
        (tmp_path / name).touch()
    with pytest.raises(
        ConfigError, match=r"contains no images .*: 4 files are not in a supported image format \(.heic: 2, .json: 1, .svg: 1\)"
    ):
        find_images([str(tmp_path)])
    (tmp_path / "a.avif").touch()
    assert find_images([str(tmp_path)], said.append) == [str(Path(tmp_path, "a.avif"))]
    assert said == [f"ignored in {tmp_path}: 3 files are not in a supported image format (.heic: 2, .svg: 1)"]
