"""NumPy's preparation of images for exports against PyTorch's for training: the same to the last bit."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.images.array_postprocessing import postprocess_arrays
from conditional_detr.images.array_preprocessing import collate_arrays, prepare_array, resize_array
from conditional_detr.images.postprocessing import postprocess
from conditional_detr.images.preprocessing import Preprocessor, resize
from conditional_detr.model.detr import DetectionOutput

SIZES = [  # height and width before and after: smaller, larger, one axis only, slivers, much smaller (32-bit sums)
    ((480, 640), (320, 427)), ((60, 80), (96, 128)), ((50, 90), (50, 91)), ((90, 50), (91, 50)), ((100, 1), (800, 8)),
    ((1, 500), (3, 133)), ((1, 1), (64, 64)), ((1500, 40), (106, 3)), ((33, 77), (32, 74)),
]  # fmt: skip


def image(height: int, width: int, kind: str) -> np.ndarray:
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if kind == "noise" else np.where(noise > 127, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "black and white"])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_both_resize_as_torchvision_does(before: tuple[int, int], after: tuple[int, int], kind: str):
    rgb = image(*before, kind)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    expected = TF.resize(tensor, list(after), antialias=True)
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":  # there torchvision rounds floating-point numbers
        assert (resize(tensor, after).int() - expected.int()).abs().max() <= 1
        expected = resize(tensor, after)
    for ours in (resize(tensor, after), resize(tensor.contiguous(), after)):
        assert ours.equal(expected)
    np.testing.assert_array_equal(resize_array(rgb, after), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("multiple", [1, 32])
def test_batches_are_equal(multiple: int):
    config = PreprocessorConfig(imgsz=70, size_multiple=multiple)
    images = [image(90, 60, "noise"), image(33, 77, "noise"), image(70, 70, "noise")]
    preprocessor = Preprocessor(config)
    expected, mask = preprocessor.collate([preprocessor(torch.from_numpy(rgb).permute(2, 0, 1)) for rgb in images])
    batch, is_padding = collate_arrays([prepare_array(rgb, config) for rgb in images], config)
    np.testing.assert_array_equal(batch, expected.numpy())
    np.testing.assert_array_equal(is_padding, mask.numpy())
    assert (batch.dtype, is_padding.dtype) == (np.float32, bool)
    assert not collate_arrays([batch[0]], PreprocessorConfig())[1].any()


@pytest.mark.parametrize(("classification", "columns"), [("focal", 4), ("softmax", 5)])
@pytest.mark.parametrize("top_k", [6, 100])
def test_detections_are_read_alike(classification: str, columns: int, top_k: int):
    torch.manual_seed(0)
    logits, boxes = 3 * torch.randn(2, 9, columns), torch.rand(2, 9, 4)
    logits[0, 0, 0] = -200  # its exponential overflows
    sizes = np.array([[480, 640], [100, 50]])
    expected = postprocess(DetectionOutput(logits, boxes), torch.from_numpy(sizes), top_k, classification)
    found = postprocess_arrays(logits.numpy(), boxes.numpy(), sizes, top_k, classification)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(ours["queries"], theirs["queries"])
        np.testing.assert_array_equal(ours["labels"], theirs["labels"])
        np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-6)
        np.testing.assert_allclose(ours["boxes"], theirs["boxes"], rtol=1e-6, atol=1e-4)
        assert ours["boxes"].dtype == ours["scores"].dtype == np.float32
