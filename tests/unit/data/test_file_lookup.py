"""Image names that differ from the names of the files."""

import os
import unicodedata
from pathlib import Path

import pytest

from conditional_detr.data.file_lookup import FileLookup


def lookup(root: Path, *files: str, images: str = "train") -> FileLookup:
    for name in files:
        path = Path(os.fsdecode(os.fsencode(root / name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / images).mkdir(exist_ok=True)
    return FileLookup(root / images, root, images)


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def taken_apart(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/a.jpg", "train/a.jpg"),
        ("images/a.jpg", "train/a.jpg"),
        ("set/train/a.jpg", "train/a.jpg"),
        ("./train/a.jpg", "train/a.jpg"),
        ("a.JPG", "train/a.jpg"),
        ("A.jpg", "train/a.jpg"),
        ("Train/A.JPG", "train/a.jpg"),
        ("x.jpg", "train/deep/down/x.jpg"),
        ("x.jpg", "pictures/x.jpg"),
        ("/data/of/someone/train/a.jpg", "train/a.jpg"),
        ("C:\\Users\\me\\train\\a.jpg", "train/a.jpg"),
        (composed("größe.jpg"), "train/" + taken_apart("größe.jpg")),
        (taken_apart("größe.jpg"), "train/" + composed("größe.jpg")),
        (composed("ÜBER/größe.JPG"), "train/" + taken_apart("über/größe.jpg")),
        ("my%20photo.jpg", "train/my photo.jpg"),
        ("https://storage.example.org/set/my%20photo.jpg?signature=1%2F2", "train/my photo.jpg"),
        ("/data/local-files/?d=set/a.jpg", "train/a.jpg"),
        ("/data/upload/3/1a2b3c4d-a.jpg", "train/a.jpg"),
        ("1a2b3c4d-a.jpg", "train/a.jpg"),
        ("a.jpeg", "train/a.jpg"),
        ("a.PNG", "train/a.jpg"),
        ("a", "train/a.jpg"),
        ("scan.v2", "train/scan.v2.png"),
        ("set/train/a.bmp", "train/a.JPG"),
        ("红.jpg", "train/" + "红.jpg".encode("gbk").decode("cp437")),
        ("größe.jpg", "train/" + "größe.jpg".encode().decode("cp437")),
        ("红.jpg", "train/" + os.fsdecode("红.jpg".encode("gbk"))),
    ],
)
def test_a_name_that_matches_one_file_is_found(tmp_path, name: str, file: str):
    found = lookup(tmp_path, file, "train/b.jpg")
    assert found.path_of(name) == tmp_path / file
    assert list(found.respelled) == [name]
    text, fix = found.summary()
    assert text.startswith("1 image name is spelled differently from the file on disk")
    assert fix.startswith("nothing")
    (text + fix).encode()


@pytest.mark.parametrize("name", ["a.jpg", "more\\a.jpg", "more/a.jpg"])
def test_an_existing_path_is_not_searched_for(tmp_path, name: str):
    found = lookup(tmp_path, "train/a.jpg", "train/more/a.jpg", "train/A.jpg")
    assert found.path_of(name).exists()
    assert not found.respelled
    assert not found.ambiguous


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("x/a.jpg", ["train/one/a.jpg", "train/two/a.jpg"]),
        ("a.JPG", ["train/a.jpg", "train/A.jpg"]),
        ("a.bmp", ["train/a.jpg", "train/a.png"]),
        ("a.jpg", ["one/a.jpg", "two/a.jpg"]),
    ],
)
def test_a_name_that_matches_several_files_is_ambiguous(tmp_path, name: str, files: list[str]):
    found = lookup(tmp_path, *files)
    assert found.path_of(name) == tmp_path / "train" / name
    assert found.ambiguous == {name: [tmp_path / file for file in sorted(files)]}
    assert not found.respelled


def test_the_file_that_agrees_with_more_folders_is_chosen(tmp_path):
    found = lookup(tmp_path, "train/one/a.jpg", "train/two/a.jpg", "train/a.jpg")
    assert found.path_of("x/two/a.jpg") == tmp_path / "train" / "two" / "a.jpg"


def test_files_of_another_split_are_taken_only_if_the_name_says_so(tmp_path):
    found = lookup(tmp_path, "valid/a.jpg", "images/val/b.jpg")
    assert found.path_of("a.jpg") == tmp_path / "train" / "a.jpg"
    assert found.path_of("B.jpg") == tmp_path / "train" / "B.jpg"
    assert found.path_of("valid/a.jpg") == tmp_path / "valid" / "a.jpg"


def test_nothing_outside_is_found(tmp_path):
    root = tmp_path / "set"
    found = lookup(root, "train/b.jpg")
    (tmp_path / "a.jpg").touch()
    (root / "train" / "link.jpg").symlink_to(tmp_path / "a.jpg")
    for name in ("../../A.jpg", "../A.jpg", "LINK.jpg", str(tmp_path / "A.jpg")):
        assert found.path_of(name) == root / "train" / name
    assert not found.respelled
    for name in (".", "..", "/", "\0", "a" * 5000, "x\ud83d.jpg", ""):
        found.path_of(name)


def test_an_image_of_another_split_is_not_taken_also_below_the_folder_of_the_images(tmp_path):
    """One metadata file or one list for all splits: names are relative to the folder of the data set."""
    lookup(tmp_path, "validation/1.jpg", images=".")
    found = FileLookup(tmp_path, tmp_path, "train")
    assert found.path_of("train/1.jpg") == tmp_path / "train" / "1.jpg"
    assert not found.respelled
    assert FileLookup(tmp_path, tmp_path, "valid").path_of("val/1.jpg") == tmp_path / "validation" / "1.jpg"


def test_a_mask_is_not_taken_for_a_missing_image(tmp_path):
    found = lookup(tmp_path, "train/b.jpg", "masks/a.png")
    assert found.path_of("a.jpg") == tmp_path / "train" / "a.jpg"
    assert not found.respelled


def test_a_date_is_no_prefix(tmp_path):
    found = lookup(tmp_path, "train/cam.jpg")
    assert not found.path_of("20230101-cam.jpg").exists()
    assert found.path_of("2023010a-cam.jpg").exists()
