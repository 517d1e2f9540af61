import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from conditional_detr.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh


def boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator)
    return torch.cat([low, low + 0.01 + torch.rand(n, 2, generator=generator)], 1)


def test_formats_agree_with_torchvision_and_invert_each_other():
    xyxy = boxes(50, 0)
    cxcywh = xyxy_to_cxcywh(xyxy)
    torch.testing.assert_close(cxcywh, box_convert(xyxy, "xyxy", "cxcywh"))
    torch.testing.assert_close(cxcywh_to_xyxy(cxcywh), xyxy)


def test_giou_of_all_pairs_agrees_with_torchvision():
    a, b = boxes(20, 0), boxes(30, 1)
    torch.testing.assert_close(generalized_iou(a[:, None], b[None]), generalized_box_iou(a, b))


def test_giou_of_far_boxes_is_negative_and_of_equal_boxes_is_one():
    a = torch.tensor([0.0, 0.0, 1.0, 1.0])
    far = torch.tensor([9.0, 9.0, 10.0, 10.0])
    assert generalized_iou(a, a).item() == 1
    assert generalized_iou(a, far).item() == pytest.approx(-0.98)


def test_giou_of_a_box_without_area_is_finite_with_a_finite_gradient():
    point = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    value = generalized_iou(point, torch.tensor([0.5, 0.5, 0.5, 0.5]))
    value.backward()
    assert value.isfinite()
    assert point.grad.isfinite().all()
