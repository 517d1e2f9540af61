"""What holds of every variant of the model: a new one is tested by standing in a table."""

from typing import get_args

import pytest
import torch
from torch.export import Dim, export

from conditional_detr.config.schema import ModelConfig
from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.model.attention import CROSS_ATTENTION, ENCODER_ATTENTION
from conditional_detr.model.backbone.neck import NECKS, space_to_depth
from conditional_detr.model.decoder import DECODER_LAYERS, DECODER_NORMS
from conditional_detr.model.encoder import ENCODER_LAYERS
from conditional_detr.model.heads.box import BOX_HEADS
from conditional_detr.model.heads.classification import CLASS_HEADS
from conditional_detr.model.memory import Memory, build_memory
from conditional_detr.model.positional import EXTENTS, sine_embedding
from conditional_detr.model.queries import Queries
from conditional_detr.model.query_init import FIRST_CONTENT, REFERENCE_POINTS
from conditional_detr.model.spatial_query import LAMBDA_Q, SPATIAL_QUERIES, NoSpatialQuery
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.objective.objectness import gaussian_targets, objectness_loss
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from models import memory_like, perturbed, random_memory, small, with_levels

PARTS = {
    "neck": NECKS,
    "pixel_aligned_positions": EXTENTS,
    "norm": DECODER_LAYERS,
    "decoder_norm": DECODER_NORMS,
    "learned_content": FIRST_CONTENT,
    "encoder_attention": ENCODER_ATTENTION,
    "cross_attention": CROSS_ATTENTION,
    "spatial_query": {name: part for name, part in SPATIAL_QUERIES.items() if name != "none"},  # which nobody chooses
    "lambda_q": LAMBDA_Q,
    "reference_points": REFERENCE_POINTS,
    "box_offset": {offset: head for (refined, offset), head in BOX_HEADS.items() if not refined},
    "box_refinement": {refined: head for (refined, offset), head in BOX_HEADS.items() if offset},
    "classification": CLASS_HEADS,
}
NEEDS = {
    "box_conditional": {"box_refinement": True},
    "encoder_boxes": {"box_refinement": True},
}  # other fields that a value needs
VARIANTS = [
    ("conditional-detr-tiny", {field: value, **NEEDS.get(value, {})})
    for field, known in PARTS.items()
    for value in list(known)[1:]
]
VARIANTS += [
    ("conditional-detr-tiny", {}),
    ("conditional-detr-r18", {"neck": "space_to_depth"}),
    ("detr-tiny", {}),
    ("detr-tiny", {"box_refinement": True}),
    ("deformable-detr-ss-tiny", {}),
    ("deformable-detr-ss-tiny", {"box_refinement": True}),
    ("deformable-detr-ss-r18", {"sampling_points": 2}),
    ("deformable-detr-ss-r18", {"strides": [16, 32, 64], "box_refinement": True}),
    ("conditional-detr-tiny", {"strides": [8, 16, 32]}),
    ("conditional-detr-tiny", {"strides": [16, 32], "encoder_attention": "deformable"}),
    ("conditional-detr-r18", {"strides": [8, 16, 32], "reference_points": "encoder", "box_refinement": True}),
    ("conditional-detr-tiny", {"strides": [8, 16], "cross_attention": "box_conditional", "box_refinement": True}),
    ("detr-tiny", {"strides": [8, 16]}),
    ("up-detr-tiny", {}),
    ("conditional-detr-tiny", {"half_cell_positions": True}),
    ("conditional-detr-r18", {}),
    ("conditional-detr-tiny", {"spatial_query": "intermediate", "lambda_q": "block"}),
    ("conditional-detr-tiny", {"spatial_query": "lambda", "box_offset": False}),  # no reference points at all
]
SMALL = {"encoder_layers": 1, "decoder_layers": 3, "feedforward_dim": 48, "hidden_dim": 32, "num_queries": 7}
CLASSES = 5


def name_of(variant: object) -> str | None:
    return "-".join(map(str, variant.values())) or "as-it-is" if isinstance(variant, dict) else None


every_variant = pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=name_of)


def build(name: str, variant: dict) -> DetectionModel:
    return perturbed(small(name, CLASSES, **SMALL | variant))


def images_and_padding() -> tuple[torch.Tensor, torch.Tensor]:
    images, is_padding = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    is_padding[1, :, 64:] = True
    images[1, :, :, 64:] = 0
    return images, is_padding


def test_every_part_has_its_value_in_the_configuration_and_the_papers_comes_first():
    assert ENCODER_LAYERS.keys() == DECODER_LAYERS.keys()
    for field, known in PARTS.items():
        kind = ModelConfig.model_fields[field].annotation
        assert (set(known) == {True, False}) if kind is bool else (get_args(kind) == tuple(known)), field
        assert ModelConfig.model_fields[field].default == next(iter(known)), field


@every_variant
def test_shapes_and_a_gradient_for_every_parameter(name: str, variant: dict):
    model = build(name, variant).train()
    output = model(*images_and_padding())
    columns = CLASSES + (model.config.classification == "softmax")
    assert output.pred_logits.shape == (2, 7, columns)
    assert output.aux_boxes.shape == (2, 2, 7, 4)
    targets = [
        {"labels": torch.tensor([1, 2]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.3, 0.4]])},
        {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]
    SetCriterion(CLASSES, model.config.classification)(output, targets)["loss"].backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]


@every_variant
def test_a_batch_of_two_equals_two_singles(name: str, variant: dict):
    model = build(name, variant)
    images, is_padding = images_and_padding()
    with torch.no_grad():
        both = model(images, is_padding)
        for i in range(2):
            alone = model(images[i : i + 1], is_padding[i : i + 1])
            torch.testing.assert_close(both.pred_logits[i], alone.pred_logits[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(both.pred_boxes[i], alone.pred_boxes[0], atol=1e-5, rtol=1e-5)


@every_variant
def test_cells_of_padding_change_nothing(name: str, variant: dict):
    model = build(name, variant)
    tokens, position = torch.randn(1, 12, 32), torch.randn(1, 12, 32)
    short = memory_like(tokens[:, :8], position[:, :8])
    long = memory_like(tokens, position, is_padding=torch.arange(12)[None] >= 8)
    with torch.no_grad():
        short, long = (after_encoder(model, with_levels(memory, len(model.config.strides))) for memory in (short, long))
    for padded, alone in zip(long, short, strict=True):
        torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def after_encoder(model: DetectionModel, memory: Memory) -> list[torch.Tensor]:
    """What the heads predict of a memory; the way from there is the forward's."""
    memory = model.encoder(memory)
    queries = model.reference_points(model.object_query, memory).queries
    decoded = model.decoder(queries, memory, model.box_head.refine)
    return [model.get_submodule(name)(decoded, memory) for name in model.head_names]


@every_variant
def test_saved_and_loaded_it_is_the_same(name: str, variant: dict, tmp_path):
    model = build(name, variant)
    back = load_model(save_model(model, tmp_path / "m"))
    assert back.config == model.config
    state = back.state_dict()
    assert all(value.equal(state[key]) for key, value in model.state_dict().items())


@every_variant
def test_encoder_and_decoder_can_be_exported_for_any_batch_and_any_size(name: str, variant: dict):
    model = build(name, variant)

    class Decoding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor, position: torch.Tensor) -> list[torch.Tensor]:
            points, extents = position[..., :2].sigmoid(), position.new_ones(1, 1, 2)
            memory = Memory(tokens, position, points, None, ((1, tokens.shape[1]),), extents)
            return after_encoder(self.model, with_levels(memory, len(model.config.strides)))

    several = len(model.config.strides) > 1
    cells = 4 * Dim("quarters", min=4, max=1024) if several else Dim("cells", min=2, max=4096)  # of up to three levels
    batch = Dim("batch", min=1, max=64)
    shapes = {"tokens": {0: batch, 1: cells}, "position": {1: cells}}
    program = export(Decoding(), (torch.randn(2, 24, 32), torch.randn(1, 24, 32)), dynamic_shapes=shapes)
    inputs = torch.randn(3, 20, 32), torch.randn(1, 20, 32)
    with torch.no_grad():
        for exported, eager in zip(program.module()(*inputs), Decoding()(*inputs), strict=True):
            torch.testing.assert_close(exported, eager, atol=1e-5, rtol=1e-5)
            assert len(eager) == 3  # layers


@every_variant
def test_the_forward_goes_the_way_that_these_tests_go(name: str, variant: dict):
    model = build(name, variant)
    images, is_padding = images_and_padding()
    with torch.no_grad():
        output = model(images, is_padding, aux=True).all_layers()
        maps = model.input_projection(model.backbone(images))
        for head, found in zip(
            model.head_names, after_encoder(model, build_memory(maps, images, is_padding, model.grid)), strict=True
        ):
            assert output[model.get_submodule(head).predicts].equal(found)


# What tells a variant from the others: what its queries look at, seen from the decoder alone.
def decoded(model: DetectionModel, points: torch.Tensor, memory: Memory) -> torch.Tensor:
    with torch.no_grad():
        return model.decoder(Queries.start(model.object_query[None], points[None]), memory).embeddings


@pytest.mark.parametrize(
    ("variant", "first_layer", "later_layers"),
    [
        ({"spatial_query": "conditional"}, True, True),
        ({"spatial_query": "intermediate"}, True, True),
        ({"spatial_query": "point"}, True, True),
        ({"spatial_query": "lambda"}, False, False),
        ({"spatial_query": "content"}, False, False),
        ({"cross_attention": "additive"}, False, False),
    ],
    ids=name_of,
)
def test_which_layers_look_from_the_reference_points(variant: dict, first_layer: bool, later_layers: bool):
    model = build("conditional-detr-tiny", variant)
    memory = random_memory()
    a, b = (decoded(model, points, memory) for points in torch.rand(2, 7, 2))
    assert ((a[0] - b[0]).abs().max() > 1e-4) == first_layer
    assert ((a[-1] - b[-1]).abs().max() > 1e-4) == later_layers


def test_lambda_comes_from_the_layer_before_or_from_this_layers_self_attention():
    for value, where in (("conditional", 0), ("intermediate", 1)):
        model = build("conditional-detr-tiny", {"spatial_query": value})
        seen, passed = [], []
        model.decoder.spatial_query.lambda_q.register_forward_pre_hook(lambda _, inputs, to=seen: to.append(inputs[0]))
        for layer in model.decoder.layers[1:]:
            layer.register_forward_pre_hook(lambda _, inputs, to=passed: to.append([inputs[0].content]))
            layer.norm1.register_forward_hook(lambda _, __, output, to=passed: to[-1].append(output))
        decoded(model, torch.rand(7, 2), random_memory())
        assert len(seen) == 2
        for content, candidates in zip(seen, passed, strict=True):
            assert content is candidates[where]


@pytest.mark.parametrize("value", LAMBDA_Q)
def test_every_lambda_is_a_linear_map_of_the_embedded_point(value: str):
    lambda_q = LAMBDA_Q[value](32, 8)
    content, points = torch.randn(2, 7, 32), torch.randn(1, 7, 32)
    basis = torch.stack([lambda_q(content, unit.expand(1, 7, 32)) for unit in torch.eye(32)], dim=-1)  # [B, Q, D, D]
    torch.testing.assert_close(lambda_q(content, points), (basis @ points[..., None])[..., 0], atol=1e-4, rtol=1e-4)
    off_diagonal = basis - torch.diag_embed(basis.diagonal(dim1=-2, dim2=-1))
    in_block = torch.block_diag(*[torch.ones(4, 4)] * 8).bool()
    if value in ("identity", "scalar", "diagonal"):
        assert off_diagonal.eq(0).all()
    if value in ("identity", "scalar"):
        torch.testing.assert_close(basis, basis[..., :1, :1] * torch.eye(32))
    if value == "block":
        assert off_diagonal[..., ~in_block].eq(0).all()
        assert (off_diagonal[..., in_block].abs() > 0).any()
    if value == "full":
        assert (off_diagonal[..., ~in_block].abs() > 0).any()
    lambda_q.init_identity()
    basis = torch.stack([lambda_q(content, unit.expand(1, 7, 32)) for unit in torch.eye(32)], dim=-1)
    assert (basis - torch.eye(32)).abs().max() < 0.2
    assert value == "identity" or (basis[0] - basis[1]).abs().max() > 1e-4  # but it still listens to the content


def test_at_the_origin_all_queries_look_from_the_middle_and_no_parameter_says_otherwise():
    model = build("conditional-detr-tiny", {"reference_points": "origin"})
    queries = model.reference_points(model.object_query, random_memory()).queries
    assert queries.reference.eq(0.5).all()
    assert not list(model.reference_points.parameters())
    assert queries.embedded.equal(queries.embedded[:, :1].expand_as(queries.embedded))


@pytest.mark.parametrize("variant", [{}, {"spatial_query": "intermediate"}, {"spatial_query": "lambda"}], ids=name_of)
def test_with_one_layer_nothing_waits_for_a_gradient_that_never_comes(variant: dict):
    small = {**SMALL, "decoder_layers": 1}
    model = create_model("conditional-detr-tiny", CLASSES, pretrained_backbone=False, **small, **variant).train()
    output = model(*images_and_padding())
    (output.pred_logits.square().sum() + output.pred_boxes.square().sum()).backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_detr_has_no_parameters_of_points_or_places():
    model = build("detr-tiny", {})
    assert type(model.decoder.spatial_query) is NoSpatialQuery
    names = [key for key, _ in model.named_parameters()]
    assert not [key for key in names if "reference" in key or "lambda" in key or "spatial" in key]
    assert sum("decoder.layers.1.cross_attention" in key for key in names) == 8


def test_detr_r50_has_the_reference_releases_trainable_parameters():
    model = create_model("detr-r50", num_classes=91, pretrained_backbone=False)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_368  # printed by DETR's main.py
    assert sum(p.numel() for p in model.parameters()) == 41_524_768


def test_detrs_heads_start_as_pytorch_starts_them():
    model = create_model("detr-tiny", CLASSES, pretrained_backbone=False, **SMALL)
    assert model.class_head.bias.abs().max() < 1 / 32**0.5
    assert model.box_head.mlp.last.weight.abs().max() > 0.01


@pytest.mark.parametrize("which", ["first", "later"])
def test_with_additive_cross_attention_layers_get_no_spatial_query_and_ask_for_none(which: str):
    model = build("conditional-detr-tiny", {"cross_attention": "additive"})  # which has points, for the boxes' offset
    spatial_query, queries = model.decoder.spatial_query, model.reference_points(model.object_query, random_memory()).queries
    assert type(spatial_query) is NoSpatialQuery
    assert not list(spatial_query.parameters())
    assert not [key for key in model.state_dict() if "spatial" in key or "lambda" in key]
    given = []
    layer = model.decoder.layers[0 if which == "first" else 2]
    layer.cross_attention.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model.decoder(queries, random_memory(), model.box_head.refine)
    assert [each.spatial for each in given] == [None]


def test_a_cell_also_holds_the_four_cells_of_the_stage_before_it():
    model = build("conditional-detr-r18", {"neck": "space_to_depth"})
    images = torch.randn(1, 3, 70, 100)  # 5 × 7 cells of 16 px in 3 × 4 of 32
    neck = model.input_projection
    with torch.no_grad():
        finer, last = model.backbone(images)
        (found,) = neck([finer, last])
        cells = space_to_depth(finer)
        both = torch.cat([last, cells], dim=1)
        torch.testing.assert_close(
            found, torch.einsum("bchw,dc->bdhw", both, neck.weight[..., 0, 0]) + neck.bias[:, None, None]
        )
    assert (last.shape, cells.shape) == ((1, 512, 3, 4), (1, 4 * 256, 3, 4))
    four = cells[0].view(256, 2, 2, 3, 4)
    for y, x in ((0, 0), (1, 2), (0, 1)):
        assert torch.equal(four[:, :, :, y, x], finer[0, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2])
    assert torch.equal(four[:, 0, 0, 2, 3], finer[0, :, 4, 6])  # the last cell has one of the four, the others lie outside
    assert not four[:, 1, :, 2].any()
    assert not four[:, :, 1, :, 3].any()


def test_pixel_aligned_positions_do_not_depend_on_how_far_an_image_is_padded():
    model = build("conditional-detr-tiny", {"pixel_aligned_positions": True})
    for width in (80, 96, 128):
        is_padding = torch.ones(1, 64, width, dtype=torch.bool)
        is_padding[..., :70] = False  # the image ends within its fifth cell
        with torch.no_grad():
            memory = model(torch.randn(1, 3, 64, width), is_padding, aux=True).memory
        x = memory.points.view(4, -1, 2)[0, :5, 0]
        torch.testing.assert_close(70 * x, torch.tensor([16.0, 32.0, 48.0, 64.0, 80.0]))


def test_a_neck_of_one_level_refuses_what_it_cannot_make():
    with pytest.raises(ConfigError, match="neck = 'space_to_depth' and dilation = true cannot be combined"):
        build("conditional-detr-dc5-r50", {"neck": "space_to_depth"})
    with pytest.raises(
        ConfigError, match=r"neck = 'space_to_depth' makes one level: strides must have one entry, not \[16, 32\]"
    ):
        build("conditional-detr-r18", {"neck": "space_to_depth", "strides": [16, 32]})


class FirstEntry(torch.nn.Module):
    """A scorer whose score is the first entry of a token."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[..., :1]


def from_the_encoder(num_queries: int) -> DetectionModel:
    """A model whose reference points are the cells with the largest first entries."""
    model = build("conditional-detr-tiny", {"reference_points": "encoder", "num_queries": num_queries})
    model.reference_points.scorer = FirstEntry()
    return model


def with_objects(cells: list[int]) -> Memory:
    """A memory of 4 × 3 cells, some of which look like the centre of an object, the first the most."""
    tokens = torch.randn(2, 12, 32)
    tokens[..., 0] = -5
    tokens[0, cells, 0] = torch.arange(len(cells), 0, -1.0)
    tokens[1, [11 - cell for cell in cells], 0] = torch.arange(len(cells), 0, -1.0)
    return memory_like(tokens, torch.randn(1, 12, 32), height=3)


def test_points_from_the_encoder_are_the_centres_of_the_cells_of_each_image_that_score_highest():
    model, memory = from_the_encoder(num_queries=2), with_objects([5, 0])
    queries, objectness, _ = model.reference_points(model.object_query, memory)
    expected = torch.tensor([[[0.375, 0.5], [0.125, 1 / 6]], [[0.625, 0.5], [0.875, 5 / 6]]])
    torch.testing.assert_close(queries.reference, expected, atol=1e-5, rtol=0)
    assert objectness.equal(memory.tokens[..., 0])


def test_no_point_lies_on_padding_and_spare_queries_look_from_the_middle():
    model, memory = from_the_encoder(num_queries=7), with_objects([5, 0])
    is_padding = torch.zeros(2, 12, dtype=torch.bool)
    is_padding[0, 3:] = True  # three cells are left, and seven queries look for places
    queries = model.reference_points(model.object_query, memory._replace(is_padding=is_padding)).queries
    points = queries.reference[0]
    torch.testing.assert_close(points[0], memory.centres[0, 0], atol=1e-5, rtol=0)
    left = {tuple(p) for p in memory.centres[0, :3].tolist()}
    assert {tuple(round(x, 4) for x in p) for p in points[:3].tolist()} == {tuple(round(x, 4) for x in p) for p in left}
    assert {tuple(p) for p in points[3:].tolist()} == {(0.5, 0.5)}


def test_queries_from_the_encoder_know_their_points():
    model = from_the_encoder(num_queries=2)
    a, b = (model.reference_points(model.object_query, with_objects(cells)).queries for cells in ([5, 0], [2, 7]))
    assert (a.position - b.position).abs().max() > 1e-3
    added = model.reference_points.place(sine_embedding(a.reference, 32))
    torch.testing.assert_close(a.position, model.object_query + added)


def test_objectness_learns_where_the_centres_are():
    model = build("conditional-detr-tiny", {"reference_points": "encoder"})
    images, _ = images_and_padding()
    targets = [
        {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.4, 0.6, 0.2, 0.4]])},
        {"labels": torch.zeros(0).long(), "boxes": torch.zeros(0, 4)},
    ]
    losses = SetCriterion(CLASSES)(model(images, aux=True), targets)
    losses["loss_objectness"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.reference_points.scorer.parameters())
    memory = with_objects([5])
    wanted = gaussian_targets(memory.centres[0], memory.typical_sizes[0], targets[0]["boxes"])
    assert wanted.argmax() == 5
    assert wanted[5] == 1
    sure = torch.where(wanted > 0, wanted, 1e-6).clamp(max=1 - 1e-6).logit()
    right, wrong = (objectness_loss(logits[None], memory, targets[:1]) for logits in (sure, -sure))
    assert right < 1e-4 < 1 < wrong
    is_padding = torch.arange(12)[None] >= 4  # the object's cell among it
    nothing = objectness_loss(-sure[None], memory._replace(is_padding=is_padding), targets[:1])
    assert nothing < wrong - 1
