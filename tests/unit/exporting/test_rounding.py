"""Modules declare the precision that an export may use."""

from torch import nn

from conditional_detr.exporting.quantisation import stays_in_float
from conditional_detr.exporting.rounding import is_within, modules_in_float32, modules_not_in_integers
from conditional_detr.model.precision import BF16_OR_HIGHER
from models import small


class Careful(nn.Linear):
    export_precision = BF16_OR_HIGHER


def test_positions_and_heads_are_not_rounded():
    model = small()
    kept = modules_not_in_integers(model)
    assert set(modules_in_float32(model)) == {"model.class_head", "model.box_head", "model.reference_points"}
    assert set(kept) - set(modules_in_float32(model)) == {
        "model.decoder.spatial_query",
        *(f"model.decoder.layers.{i}.cross_attention.{which}_spatial" for i in range(3) for which in "qk"),
    }


def test_offsets_and_references_of_deformable_attention_are_not_rounded():
    model = small("deformable-detr-ss-tiny")
    attentions = [f"model.encoder.layers.{i}.self_attention" for i in range(2)]
    attentions += [f"model.decoder.layers.{i}.cross_attention" for i in range(3)]
    offsets = {f"{attention}.offsets" for attention in attentions}
    assert set(modules_in_float32(model)) == {"model.class_head", "model.box_head", "model.reference_points", *offsets}
    weights = {f"{attention}.weights" for attention in attentions}
    assert set(modules_not_in_integers(model)) - set(modules_in_float32(model)) == {"model.decoder.spatial_query", *weights}


def test_a_marked_custom_module_is_not_rounded_with_all_its_parts():
    model = small()
    model.encoder.layers[0].feedforward.linear1 = Careful(128, 64)
    kept = modules_not_in_integers(model)
    assert "model.encoder.layers.0.feedforward.linear1" in kept
    assert stays_in_float("model.encoder.layers.0.feedforward.linear1.inner", "linear_3", kept)
    assert not stays_in_float("model.encoder.layers.0.feedforward.linear2", "linear_4", kept)
    assert not stays_in_float("model.encoder.layers.0.feedforward.linear10", "linear_5", kept)  # only its name begins so


def test_of_the_graph_only_known_linear_maps_and_the_backbone_are_rounded():
    kept = modules_not_in_integers(small())
    assert not stays_in_float("model.backbone.body.conv_stem", "add_1", kept)
    assert stays_in_float("model.encoder.layers.0", "add_1", kept)
    assert stays_in_float("", "linear_1", kept)
    assert stays_in_float("model", "linear_1", kept)
    assert not is_within("model.input_projection", kept)
