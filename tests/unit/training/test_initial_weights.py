"""What a new model takes from a trained one."""

import pytest
import torch

from conditional_detr.errors import ConfigError
from conditional_detr.training.setup.initial_weights import differing_fields, starts_boxes, take_weights
from models import perturbed, small

PARTS = {"hidden_dim": 32, "feedforward_dim": 48, "encoder_layers": 1, "decoder_layers": 2}


def model(classes: int, queries: int, **overrides):
    return perturbed(small("conditional-detr-tiny", classes, **PARTS | {"num_queries": queries} | overrides))


def test_all_but_the_classes_and_the_number_of_queries_is_taken():
    trained, new = model(3, 4), model(5, 8)
    before = {key: value.clone() for key, value in new.state_dict().items()}
    assert not take_weights(new, trained, "a")
    state, source = new.state_dict(), trained.state_dict()
    for key, value in state.items():
        if key.startswith("class_head."):
            assert value.equal(before[key])
        elif key == "object_query":
            torch.testing.assert_close(value, source[key].repeat_interleave(2, 0))
        else:
            torch.testing.assert_close(value, source[key])


def test_the_same_classes_keep_what_they_learned():
    trained, new, turned = (model(2, 4) for _ in range(3))
    torch.nn.init.ones_(trained.class_head.weight)
    trained.class_names = new.class_names = ["cat", "dog"]
    turned.class_names = ["dog", "cat"]
    assert take_weights(new, trained, "a")
    assert not take_weights(turned, trained, "a")
    assert torch.equal(new.class_head.weight, trained.class_head.weight)
    assert not torch.equal(turned.class_head.weight, trained.class_head.weight)


def test_fewer_queries_are_spread_over_those_that_there_are():
    trained, new = model(3, 8), model(3, 2)
    take_weights(new, trained, "a")
    torch.testing.assert_close(new.object_query.detach(), trained.object_query.detach()[[0, 4]])


def test_other_parts_are_named():
    trained, new = model(3, 4), model(3, 4, feedforward_dim=24, lambda_q="identity")
    assert differing_fields(new.config, trained.config) == ["feedforward_dim", "lambda_q"]
    with pytest.raises(ConfigError, match="init_from = 'a' has another architecture: feedforward_dim, lambda_q differ"):
        take_weights(new, trained, "a")


def test_refined_boxes_start_as_the_first_layer_of_a_shared_head():
    trained = model(3, 4)
    new = model(3, 4, box_refinement=True, cross_attention="box_conditional")
    torch.nn.init.zeros_(new.box_head.layers[1].mlp.last.weight)
    torch.nn.init.zeros_(new.box_head.layers[1].mlp.last.bias)
    for layer in new.decoder.layers[1:]:
        layer.cross_attention.box_bias.initialise()
    take_weights(new, trained, "a")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        had, has = trained(images, aux=True), new(images, aux=True)
    torch.testing.assert_close(has.aux_boxes[0], had.aux_boxes[0])
    torch.testing.assert_close(has.pred_boxes, had.aux_boxes[0])
    assert differing_fields(trained.config, new.config) == ["cross_attention", "box_refinement"]  # not the other way


def test_queries_that_start_from_boxes_start_as_those_that_start_from_points():
    trained = model(3, 4, reference_points="encoder", box_refinement=True)
    new = model(3, 4, reference_points="encoder_boxes", box_refinement=True)
    assert starts_boxes(new, trained)
    assert not starts_boxes(new, new)
    take_weights(new, trained, "a")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        memory = new.encode(images, None)
        queries, scores, boxes = new.reference_points(new.object_query, memory)
        assert scores.equal(trained.reference_points(trained.object_query, trained.encode(images, None)).objectness)
        output = new(images, aux=True)
    for layer in (*output.aux_boxes, output.pred_boxes):  # offsets of the other model, in logits, would mean something else
        torch.testing.assert_close(layer, queries.reference, atol=1e-5, rtol=1e-4)
    assert boxes.shape[-1] == 4
