import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.errors import ConfigError, ImageError
from conditional_detr.images.decoding import decode
from conditional_detr.images.postprocessing import postprocess
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.images.sizes import resized_hw
from conditional_detr.model.detr import DetectionOutput

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def detr_size(width: int, height: int, size: int, max_size: int) -> tuple[int, int]:
    """The rule of DETR's code, written down from its description: the reference for our arithmetic."""
    low, high = float(min(width, height)), float(max(width, height))
    if high / low * size > max_size:
        size = round(max_size * low / high)
    return (size, int(size * width / height)) if height < width else (int(size * height / width), size)


@pytest.mark.parametrize(
    ("width", "height"), [(640, 480), (480, 640), (500, 375), (427, 640), (1333, 200), (333, 500), (800, 800)]
)
def test_sizes_agree_with_detrs_rule(width: int, height: int):
    assert resized_hw((height, width), 800, 1333) == detr_size(width, height, 800, 1333)


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3000, 2), (1, 65_000)])
def test_slivers_keep_at_least_a_pixel_and_stay_within_the_limit(size: tuple[int, int]):
    height, width = resized_hw(size, 800, 1333)
    assert min(height, width) >= 1
    assert max(height, width) <= 1333


def saved(image: Image.Image, suffix: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, suffix, **options)
    stream.seek(0)
    return stream


def test_every_kind_of_input_gives_the_same_image(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    expected = torch.from_numpy(IMAGE).permute(2, 0, 1)
    for door in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGE), IMAGE):
        assert decode(door).equal(expected)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("gray.png", Image.fromarray(IMAGE[..., 0])),
        ("gray-alpha.png", Image.fromarray(IMAGE[..., 0]).convert("LA")),
        ("rgba.png", Image.fromarray(IMAGE).convert("RGBA")),
        ("palette.gif", Image.fromarray(IMAGE).convert("P")),
        ("cmyk.jpg", Image.fromarray(IMAGE).convert("CMYK")),
        ("fine.webp", Image.fromarray(IMAGE)),
        ("one.png", Image.fromarray(IMAGE[:1, :1])),
    ],
)
def test_unusual_images_are_converted_to_rgb_without_a_warning(tmp_path, name: str, image: Image.Image):
    image.save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgb = decode(tmp_path / name)
    assert rgb.dtype == torch.uint8
    assert rgb.shape == (3, image.height, image.width)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png")[0].equal(torch.from_numpy(IMAGE[..., 0]))


def test_floating_point_images_are_scaled_from_0_to_1(tmp_path):
    fractions = IMAGE[..., 0].astype(np.float32) / 255
    Image.fromarray(fractions).save(tmp_path / "a.tiff")
    assert decode(tmp_path / "a.tiff")[0].int().sub(torch.from_numpy(IMAGE[..., 0]).int()).abs().max() <= 1
    fractions[3, 4] = np.nan
    Image.fromarray(fractions).save(tmp_path / "b.tiff")
    assert decode(tmp_path / "b.tiff")[0, 3, 4] == 0


def test_the_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(IMAGE).save(tmp_path / "a.png", exif=exif)
    assert decode(tmp_path / "a.png").equal(torch.from_numpy(np.rot90(IMAGE, -1).copy()).permute(2, 0, 1))


def test_unreadable_images_are_named_with_the_reason(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no image")
    for name, reason in (
        ("half.jpg", "truncated"), ("empty.jpg", "empty file"), ("text.png", "unknown image"), ("none.png", "No such file"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=f"{name}.*{reason}"):
            decode(tmp_path / name)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("conditional_detr.images.decoding.MAX_PIXELS", 1000)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png must not have more than 1000 pixels: it has 80 x 60"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("array", [IMAGE.astype(np.float32), IMAGE[..., 0], IMAGE[:, :, :2], IMAGE[:0]])
def test_arrays_must_be_uint8_rgb(array: np.ndarray):
    with pytest.raises(ImageError, match=r"uint8 RGB image \[H, W, 3\]"):
        decode(array)


def test_normalising_is_per_channel():
    preprocessor = Preprocessor(PreprocessorConfig(imgsz=16, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0)))
    out = preprocessor.normalise(torch.full((3, 2, 2), 255, dtype=torch.uint8))
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([1.0, 0.75, 0.5]))


def test_collate_pads_at_the_bottom_right_and_masks_what_it_added():
    preprocessor = Preprocessor(PreprocessorConfig())
    images, is_padding = preprocessor.collate([torch.ones(3, 4, 6), torch.ones(3, 5, 2)])
    assert images.shape == (2, 3, 5, 6)
    assert images.sum() == 3 * (4 * 6 + 5 * 2)
    assert is_padding.equal(images[:, 0] == 0)


def test_collate_gives_no_mask_where_nothing_is_padded_and_rounds_up_to_the_multiple():
    same = [torch.ones(3, 4, 6), torch.ones(3, 4, 6)]
    assert Preprocessor(PreprocessorConfig()).collate(same)[1] is None
    images, is_padding = Preprocessor(PreprocessorConfig(size_multiple=8)).collate(same)
    assert images.shape == (2, 3, 8, 8)
    assert is_padding.sum() == 2 * (64 - 24)


def test_postprocess_takes_the_best_pairs_of_query_and_class_and_scales_to_the_original():
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 9, 4), torch.rand(2, 9, 4)
    sizes = torch.tensor([[480, 640], [100, 50]])
    results = postprocess(DetectionOutput(logits, boxes), sizes, top_k=10)
    for j, (height, width) in enumerate(sizes.tolist()):
        best = logits[j].sigmoid().flatten().topk(10)
        expected = box_convert(boxes[j], "cxcywh", "xyxy")[best.indices // 4] * torch.tensor([width, height, width, height])
        torch.testing.assert_close(results[j]["scores"], best.values)
        torch.testing.assert_close(results[j]["boxes"], expected)
        assert results[j]["labels"].equal(best.indices % 4)
        assert results[j]["queries"].equal(best.indices // 4)


def test_trap_a_query_may_appear_with_several_classes():
    logits = torch.tensor([[[5.0, 4.0], [-5.0, -5.0]]])
    result = postprocess(DetectionOutput(logits, torch.full((1, 2, 4), 0.5)), torch.tensor([[10, 10]]), top_k=2)[0]
    assert result["labels"].tolist() == [0, 1]
    assert result["boxes"][0].equal(result["boxes"][1])


def test_postprocess_refuses_what_it_does_not_know():
    output = DetectionOutput(torch.zeros(1, 2, 2), torch.zeros(1, 2, 4))
    with pytest.raises(ConfigError, match="there is no classification 'soft'. Did you mean softmax?"):
        postprocess(output, torch.tensor([[1, 1]]), classification="soft")


def test_softmax_gives_each_query_once_with_its_best_class_and_never_no_object():
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 9, 5), torch.rand(2, 9, 4)
    results = postprocess(DetectionOutput(logits, boxes), torch.tensor([[10, 20], [10, 20]]), 100, "softmax")
    for j, result in enumerate(results):
        scores, labels = logits[j].softmax(-1)[:, :4].max(-1)
        order = scores.argsort(descending=True)
        torch.testing.assert_close(result["scores"], scores[order])
        assert result["labels"].equal(labels[order])
        assert result["queries"].equal(order)
        expected = box_convert(boxes[j], "cxcywh", "xyxy")[order] * torch.tensor([20, 10, 20, 10])
        torch.testing.assert_close(result["boxes"], expected)


def test_sixteen_bits_are_scaled_the_same_whatever_the_image_shows(tmp_path):
    for name, value in (("dark", 200), ("bright", 51400)):
        Image.fromarray(np.full((4, 4), value, dtype=np.uint16)).save(tmp_path / f"{name}.png")
    assert decode(tmp_path / "dark.png").max() == 0
    assert decode(tmp_path / "bright.png").max() == 200


def test_a_pil_image_whose_file_is_cut_off_is_an_image_error(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with Image.open(tmp_path / "b.png") as opened, pytest.raises(ImageError, match="a PIL image cannot be read"):
        decode(opened)


def test_a_normalised_image_can_be_shown_again():
    rgb = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    preprocessor = Preprocessor(PreprocessorConfig(imgsz=32))
    assert preprocessor.denormalise(preprocessor.normalise(rgb)).equal(rgb)
