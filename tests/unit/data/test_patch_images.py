"""Images of a folder and the patches that pre-training cuts out of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.errors import DataError
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.pretraining.images import PatchImages, image_folder, random_boxes


def write(folder, sizes: dict[str, tuple[int, int]]) -> None:
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 30, 200)).save(folder / name)


def test_all_images_of_a_folder_are_found_but_hidden_and_tiny_ones(tmp_path):
    write(
        tmp_path, {"a.jpg": (64, 48), "b/c.png": (30, 90), "b/d/e.webp": (40, 40), "small.png": (16, 90), ".x/f.jpg": (64, 64)}
    )
    (tmp_path / "notes.txt").write_text("no image")
    index = image_folder(tmp_path)
    assert [path.removeprefix(f"{tmp_path}/") for path in index.paths] == ["a.jpg", "b/c.png", "b/d/e.webp"]
    assert index.sizes_hw.tolist() == [[48, 64], [90, 30], [40, 40]]
    assert len(index.labels) == 0


@pytest.mark.parametrize("what", ["missing", "empty", "tiny"])
def test_a_folder_without_images_is_refused(tmp_path, what: str):
    if what == "tiny":
        write(tmp_path, {"a.png": (16, 16)})
    texts = {"missing": "it does not exist", "empty": "contains no images", "tiny": "has no image with sides of more"}
    with pytest.raises(DataError, match=texts[what]):
        image_folder(tmp_path / "missing" if what == "missing" else tmp_path)


def test_boxes_are_inside_and_of_all_shapes():
    boxes = random_boxes((60, 100), 4000)
    x0, y0, x1, y1 = boxes.unbind(1)
    width, height = x1 - x0, y1 - y0
    assert (x0.min(), y0.min(), width.min(), height.min()) == (0, 0, 8, 8)
    assert (x1.max() < 100, y1.max() < 60) == (True, True)
    assert (width.max(), height.max()) == (92, 52)
    assert width.float().mean() == pytest.approx(50, abs=2)
    assert torch.corrcoef(torch.stack([width.float(), height.float()]))[0, 1].abs() < 0.1


def test_the_smallest_image_has_room_for_patches():
    assert random_boxes((17, 17), 100)[:, 2:].max() < 17


def test_a_patch_is_what_the_image_shows_in_its_box_and_comes_from_the_seed(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    preprocessor = Preprocessor(PreprocessorConfig(imgsz=96))
    images = PatchImages(image_folder(tmp_path), preprocessor, 96, 10, 2000)
    images.patch = lambda crop: crop.float().mean((1, 2)).view(3, 1, 1)  # without distortion
    item, again, other = (images[0, seed] for seed in (5, 5, 6))
    assert torch.equal(item.target["boxes"], again.target["boxes"])
    assert not torch.equal(item.target["boxes"], other.target["boxes"])
    assert item.target["labels"].tolist() == [1] * 10
    assert torch.equal(item.target["kept"], again.target["kept"])
    assert 0.87 < item.target["kept"].float().mean() < 0.93
    for (cx, cy, w, h), patch in zip(item.target["boxes"].tolist(), item.target["patches"], strict=True):
        x0, x1 = (round(120 * (cx + side * w / 2)) for side in (-1, 1))
        y0, y1 = (round(90 * (cy + side * h / 2)) for side in (-1, 1))
        expected = torch.from_numpy(rgb[y0:y1, x0:x1]).float().mean((0, 1))
        torch.testing.assert_close(patch[:, 0, 0], expected, atol=1e-3, rtol=1e-4)


def test_images_are_resized_without_flips_and_patches_are_square(tmp_path):
    write(tmp_path, {"a.png": (200, 100)})
    images = PatchImages(image_folder(tmp_path), Preprocessor(PreprocessorConfig(imgsz=480)), 480, 3, 3)
    heights = {images[0, seed].image.shape[-2] for seed in range(40)}
    assert heights <= {min(320 + 16 * k, 300) for k in range(11)}  # the longer side is at most 600
    assert images[0, 0].target["patches"].shape == (3, 3, 128, 128)
    square = tmp_path / "square"
    write(square, {"a.png": (100, 100)})
    images = PatchImages(image_folder(square), Preprocessor(PreprocessorConfig(imgsz=480)), 480, 1, 1)
    assert {images[0, seed].image.shape[-1] for seed in range(60)} == {320 + 16 * k for k in range(11)}
