"""Queries that start from boxes which the encoder's output predicts."""

import pytest
import torch

from conditional_detr.boxes import cxcywh_to_xyxy, iou
from conditional_detr.errors import ConfigError
from conditional_detr.factory.create import create_model
from conditional_detr.model.query_init import prefer_peaks
from conditional_detr.training.objective.cell_boxes import NEAR, cell_box_loss
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.objective.objectness import gaussians
from models import perturbed, small

PARTS = {"reference_points": "encoder_boxes", "box_refinement": True, "hidden_dim": 32, "num_queries": 5}


def model(name: str = "conditional-detr-tiny", **overrides):
    return perturbed(small(name, 3, **PARTS | overrides))


def targets_of(*boxes: list[float]) -> dict[str, torch.Tensor]:
    return {"labels": torch.zeros(len(boxes)).long(), "boxes": torch.tensor(boxes).reshape(-1, 4)}


@pytest.mark.parametrize("overrides", [{}, {"cross_attention": "box_conditional"}, {"strides": [16, 32]}])
def test_queries_start_from_the_boxes_of_the_best_cells(overrides):
    detector = model(**overrides)
    with torch.no_grad():
        memory = detector.encode(torch.rand(2, 3, 96, 128), None)
        queries, scores, boxes = detector.reference_points(detector.object_query, memory)
    cells = memory.tokens.shape[1]
    assert boxes.shape == (2, cells, 4)
    best = prefer_peaks(scores, memory).topk(5, dim=1).indices
    torch.testing.assert_close(queries.reference, boxes.gather(1, best[..., None].expand(-1, -1, 4)))
    start = torch.cat([memory.centres, memory.typical_sizes.clamp(max=0.5)], -1)
    shift, log_scale = detector.reference_points.box(memory.tokens).split(2, dim=-1)
    centre, size = start.split(2, dim=-1)
    torch.testing.assert_close(boxes, torch.cat([centre + shift * size, size * log_scale.exp()], -1))


def test_untrained_cells_predict_boxes_of_their_level_at_their_place():
    detector = create_model("conditional-detr-tiny", 3, pretrained_backbone=False, **PARTS)
    with torch.no_grad():
        memory = detector.encode(torch.rand(1, 3, 320, 320), None)
        boxes = detector.reference_points(detector.object_query, memory).cell_boxes
    torch.testing.assert_close(boxes[0, :, 2:], torch.full((400, 2), 0.2))  # four cells of sixteen px in 320 px
    torch.testing.assert_close(boxes[0, :, :2], memory.centres[0])


def test_the_decoder_trains_no_box_of_a_cell_and_its_own_loss_does():
    detector = model().train()
    output = detector(torch.rand(1, 3, 96, 128))
    losses = SetCriterion(3)(output, [targets_of([0.4, 0.5, 0.3, 0.4])])
    of_boxes = list(detector.reference_points.box.parameters())
    decoder = losses["loss"] - losses["loss_objectness"] - losses["loss_cell_boxes"]
    reached = torch.autograd.grad(decoder, of_boxes, allow_unused=True, retain_graph=True)
    assert all(each is None or not each.abs().sum() for each in reached)
    assert all(each.abs().sum() > 0 for each in torch.autograd.grad(losses["loss_cell_boxes"], of_boxes))


def test_right_boxes_cost_nothing_and_objects_count_alike():
    memory = model().encode(torch.rand(1, 3, 160, 160), None)
    small_one, large = [0.2, 0.2, 0.1, 0.1], [0.6, 0.6, 0.6, 0.6]
    target = targets_of(small_one, large)
    heights = gaussians(memory.centres[0], memory.typical_sizes[0], target["boxes"])
    right = target["boxes"][heights.argmax(1)][None]
    assert cell_box_loss(right, memory, [target]).abs() < 1e-5
    shifted = right + torch.tensor([0.02, 0, 0, 0])
    costs = []
    for box in (small_one, large):
        only = torch.where((right[0] == torch.tensor(box)).all(1)[:, None], shifted[0], right[0])[None]
        overlap = iou(*(cxcywh_to_xyxy(torch.tensor([b])) for b in (box, [box[0] + 0.02, *box[1:]])))
        costs.append((float(cell_box_loss(only, memory, [target])), float(overlap)))
    for cost, overlap in costs:  # whatever the number of its cells
        assert cost == pytest.approx(5 * 0.02 + 2 * (1 - overlap), abs=1e-3)


def test_cells_far_from_objects_and_on_padding_learn_no_box():
    memory = model().encode(torch.rand(1, 3, 160, 160), None)
    boxes = torch.full((1, 100, 4), 0.3, requires_grad=True)
    target = targets_of([0.5, 0.5, 0.4, 0.4])
    cell_box_loss(boxes, memory, [target]).backward()
    heights = gaussians(memory.centres[0], memory.typical_sizes[0], target["boxes"])[:, 0]
    taught = boxes.grad[0].abs().sum(1) > 0
    assert taught.equal(heights >= NEAR)
    boxes.grad = None
    is_padding = torch.arange(100)[None] >= 50
    cell_box_loss(boxes, memory._replace(is_padding=is_padding), [target]).backward()
    assert (boxes.grad[0].abs().sum(1) > 0).equal((heights >= NEAR) & ~is_padding[0])
    nothing = cell_box_loss(boxes, memory._replace(is_padding=torch.ones(1, 100, dtype=torch.bool)), [target])
    assert nothing == 0
    assert cell_box_loss(boxes, memory, [targets_of()]) == 0


def test_conflicting_settings_name_the_way_out():
    with pytest.raises(ConfigError, match="'encoder_boxes' starts queries from boxes: set box_refinement = true"):
        create_model("conditional-detr-tiny", 3, False, reference_points="encoder_boxes")
    with pytest.raises(ConfigError, match="patches and reference_points = 'encoder_boxes' cannot be combined"):
        create_model("conditional-detr-tiny", 3, False, patches=4, **PARTS)


@pytest.mark.parametrize("strides", [[16], [16, 32]])
def test_neighbours_of_a_better_cell_come_after_the_peaks_of_other_objects(strides: list[int]):
    memory = model(strides=strides).encode(torch.rand(1, 3, 96, 128), None)
    height, width = memory.shapes[0]
    scores = torch.full((1, memory.tokens.shape[1]), -9.0)
    first = scores[0, : height * width].view(height, width)  # a view: the finest level
    first[1, 1:4] = torch.tensor([2.0, 3.0, 2.0])
    first[4, 6] = 1.5  # a weaker object
    first[2, 3] = 2.5  # diagonal to the peak, below 2.0
    preferred = prefer_peaks(scores, memory)[0, : height * width].view(height, width)
    assert preferred[1].tolist()[1:4] == [0, 3, 0]
    assert preferred[4, 6] == 1.5
    assert preferred[2, 3] == 2.5
    assert preferred[0, 0] == -9  # no neighbour is higher
    assert preferred[1, 0] == -11


def test_padding_is_never_a_peak_and_hides_none():
    memory = model().encode(torch.rand(1, 3, 96, 128), None)
    height, width = memory.shapes[0]
    scores = torch.randn(1, height * width)
    scores.view(height, width)[:, 4:] = -torch.inf
    preferred = prefer_peaks(scores, memory).view(height, width)
    assert preferred[:, 4:].isneginf().all()
    highest = scores.argmax()
    assert preferred.flatten()[highest] == scores[0, highest]


def test_layers_predict_boxes_in_units_of_their_reference():
    detector = model()
    with torch.no_grad():
        memory = detector.encode(torch.rand(2, 3, 96, 128), None)
        initial = detector.reference_points(detector.object_query, memory)
        decoded = detector.decoder(initial.queries, memory, detector.box_head.refine)
        boxes = detector.box_head(decoded, memory)
        for layer, head in enumerate(detector.box_head.layers):
            shift, log_scale = head.mlp(decoded.embeddings[layer]).split(2, dim=-1)
            centre, size = decoded.references[layer].split(2, dim=-1)
            torch.testing.assert_close(boxes[layer], torch.cat([centre + shift * size, size * log_scale.exp()], -1))


def test_an_extra_group_starts_from_the_same_boxes_with_object_queries_of_its_own():
    detector = model()
    with torch.no_grad():
        memory = detector.encode(torch.rand(2, 3, 96, 128), None)
        points, other = detector.reference_points, torch.randn_like(detector.object_query)
        extra = points.extra_group(other, memory, points(detector.object_query, memory))
        expected = points(other, memory).queries
    for got, wanted in zip(extra[:4], expected[:4], strict=True):
        assert got.equal(wanted)
