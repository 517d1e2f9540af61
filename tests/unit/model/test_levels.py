"""A memory of several levels: its cells, its encoders, and what chooses among the levels."""

import pytest
import torch

from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.fusion import twice_as_large
from conditional_detr.model.memory import TYPICAL_CELLS, Memory, build_memory
from conditional_detr.model.query_init import LARGEST_START
from conditional_detr.training.objective.objectness import gaussian_targets
from models import perturbed, small

LEVELS = {"strides": [8, 16, 32], "hidden_dim": 32}


def memory_of(model: DetectionModel, height: int, width: int) -> Memory:
    """The memory of a random image before the encoder."""
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        return build_memory(model.input_projection(model.backbone(images)), images, None, model.grid)


@pytest.mark.parametrize("neck", ["last", "group_norm"])
def test_each_level_is_the_stage_of_its_stride_and_the_finest_comes_first(neck: str):
    model = small("conditional-detr-r18", **{**LEVELS, "strides": [8, 16, 32, 64], "neck": neck})
    memory = memory_of(model, 100, 140)
    assert memory.shapes == ((13, 18), (7, 9), (4, 5), (2, 3))
    assert [x.shape[1] for x in memory.levels(memory.tokens)] == [13 * 18, 7 * 9, 4 * 5, 2 * 3]
    with torch.no_grad():
        *_, last = maps = model.backbone(torch.randn(1, 3, 100, 140))
        for level, given, found in zip(model.input_projection.levels, [*maps, last], model.input_projection(maps), strict=True):
            assert found.equal(level(given))


def test_the_dense_encoder_attends_on_the_coarsest_level_and_passes_it_on_to_the_finer_ones():
    model = perturbed(small("conditional-detr-tiny", **LEVELS))
    memory = memory_of(model, 96, 128)
    fine, middle, _ = (x.shape[1] for x in memory.levels(memory.tokens))

    def changed(cell: int) -> list[torch.Tensor]:
        """For each level, whether each of its cells changes with the token of one cell."""
        tokens = memory.tokens.clone()
        tokens[:, cell] += 1
        with torch.no_grad():
            before, after = (model.encoder(memory._replace(tokens=x)).tokens for x in (memory.tokens, tokens))
        return memory.levels((before - after).abs().amax(-1, keepdim=True) > 1e-6)

    of_fine, of_coarse = changed(0), changed(fine + middle)
    assert not any(level.any() for level in of_fine[1:])  # nothing goes downwards
    assert 1 <= of_fine[0].sum() <= 4  # a 3 x 3 convolution, at the corner
    assert all(level.all() for level in of_coarse)  # attention, then everything that is covered


def test_the_deformable_encoder_lets_all_levels_see_each_other():
    model = perturbed(small("conditional-detr-tiny", **LEVELS, encoder_attention="deformable"))
    memory = memory_of(model, 96, 128)
    tokens = memory.tokens.clone()
    tokens[:, -12:] += 1  # the coarsest level
    with torch.no_grad():
        before, after = (model.encoder(memory._replace(tokens=x)).tokens for x in (memory.tokens, tokens))
    assert all((x > 1e-6).any() for x in memory.levels((before - after).abs()))


def test_a_level_embedding_tells_cells_at_the_same_place_apart():
    model = perturbed(small("conditional-detr-tiny", **LEVELS))
    memory = memory_of(model, 64, 64)
    placed = model.encoder.level_embedding(memory)
    for level, (before, after) in enumerate(zip(memory.levels(memory.position), placed.levels(placed.position), strict=True)):
        torch.testing.assert_close(after - before, model.encoder.level_embedding.weight[level].expand_as(after))


def test_a_box_starts_with_the_size_of_its_cells_level():
    model = perturbed(small("conditional-detr-tiny", **LEVELS, reference_points="encoder", box_refinement=True))
    memory = memory_of(model, 128, 256)
    reference = model.reference_points(model.object_query, memory).queries.reference
    sizes = {(round(w, 4), round(h, 4)) for w, h in reference[0, :, 2:].tolist()}
    starts = [(TYPICAL_CELLS * stride / 256, TYPICAL_CELLS * stride / 128) for stride in (8, 16, 32)]
    assert sizes <= {(round(min(w, LARGEST_START), 4), round(min(h, LARGEST_START), 4)) for w, h in starts}
    with torch.no_grad():
        model.box_head.layers[0].mlp.last.weight.zero_()
        model.box_head.layers[0].mlp.last.bias.zero_()
        boxes = model(torch.randn(1, 3, 128, 256), aux=True).aux_boxes[0]
    assert {round(w, 4) for w in boxes[0, :, 2].tolist()} <= {round(min(w, LARGEST_START), 4) for w, _ in starts}


def test_the_size_of_new_boxes_is_not_added_to_that_of_a_level():
    several = small("deformable-detr-ss-tiny", **LEVELS, reference_points="encoder")
    assert several.config.size_logit == -2
    assert several.box_head.mlp.last.bias[2:].eq(0).all()


@pytest.mark.parametrize("size", [(13, 18), (12, 17), (7, 7)])
def test_a_fine_cell_gets_the_coarse_cell_that_covers_it(size: tuple[int, int]):
    height, width = size
    coarser = torch.arange(1.0, 1 + -(-height // 2) * -(-width // 2)).view(1, 1, -(-height // 2), -(-width // 2))
    finer = torch.zeros(1, 1, height, width)
    enlarged = twice_as_large(coarser, finer)
    for y in range(height):
        for x in range(width):
            assert enlarged[0, 0, y, x] == coarser[0, 0, y // 2, x // 2]
    fewer = coarser[..., :-1]  # of a backbone that rounds sizes down
    columns = [min(x // 2, fewer.shape[-1] - 1) for x in range(width)]
    assert twice_as_large(fewer, finer)[0, 0, 0].equal(fewer[0, 0, 0, columns])


@pytest.mark.parametrize("strides", [[8, 32], [16, 64], [64], [32, 16], [16, 16]])
def test_levels_that_do_not_double_are_refused(strides: list[int]):
    with pytest.raises(ConfigError, match="strides must double from level to level"):
        small("conditional-detr-tiny", strides=strides)


@pytest.mark.parametrize(("side", "level"), [(24, 0), (70, 1), (200, 2)])
def test_an_object_belongs_to_the_level_of_its_size(side: int, level: int):
    model = small("conditional-detr-tiny", **LEVELS)
    memory = memory_of(model, 256, 256)
    box = torch.tensor([[0.5, 0.5, side / 256, side / 256]])
    wanted = gaussian_targets(memory.centres[0], memory.typical_sizes[0], box)[None, :, None]
    assert [bool(x.any()) for x in memory.levels(wanted)] == [number == level for number in range(3)]
    assert wanted.max() == 1
