import copy
from types import SimpleNamespace

import pytest
import torch

from batches import batch
from conditional_detr.config.messages import updated
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.recipes import RECIPES
from conditional_detr.errors import ConfigError
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.objective.losses import Totals
from conditional_detr.training.objective.objective import Objective, build_criterion
from conditional_detr.training.train_step import build_step, make_step, trainable, usual_recipe

TOTALS = Totals(*torch.ones(3))


def test_the_loss_is_the_criterions(small_model):
    with torch.no_grad():
        expected = SetCriterion(3)(small_model(*batch()[:2], aux=True), batch()[2])
    losses = make_step(small_model, amp="off", recipe=RECIPES["paper"])(*batch())
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-4, rtol=1e-4)


def test_groups_learn_as_if_each_were_the_only_one(small_model):
    """Three groups with the same queries lose what one loses, and their gradients add up to its."""
    images, padding_mask, targets = batch()
    extra = small_model.object_query.detach().repeat(2, 1, 1)
    criterion = SetCriterion(3)
    alone = criterion(small_model(images, padding_mask, aux=True), targets)
    output = small_model(images, padding_mask, aux=True, extra_queries=extra)
    assert output.pred_logits.shape[1] == 3 * len(small_model.object_query)
    together = criterion(output, targets, groups=3)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value)


def test_a_group_does_not_see_the_others(small_model):
    images, padding_mask, _ = batch()
    small_model.eval()
    alone = small_model(images, padding_mask)
    others = torch.randn(2, *small_model.object_query.shape)
    with_others = small_model.train()(images, padding_mask, extra_queries=others)
    torch.testing.assert_close(
        with_others.pred_boxes[:, : len(small_model.object_query)], alone.pred_boxes, atol=1e-5, rtol=1e-4
    )


def test_every_query_of_every_group_learns(small_model):
    recipe = updated(RECIPES["paper"], {"query_groups": 3}, "")
    learning = trainable(small_model, recipe)
    step, queries = build_step(learning, recipe, "off"), learning.auxiliaries["extra_queries"].queries
    before = queries.detach().clone()
    step(*batch())
    assert queries.shape == (2, *small_model.object_query.shape)
    assert ((queries - before).abs().amax(-1) > 0).all()
    assert set(small_model.state_dict()) == set(copy.deepcopy(small_model).state_dict())


class Answer(torch.nn.Module):
    """Gives an answer and keeps what it was asked."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, *arguments, **named):
        self.asked.append((*arguments, *named.values()))
        return self.answer


class Criterion(Answer, SetCriterion):
    def __init__(self, answer) -> None:
        SetCriterion.__init__(self, num_classes=1)
        self.answer, self.asked = answer, []


def test_an_objective_takes_parts_that_are_handed_in():
    """The formula alone: forward, criterion, and the dense loss by its weight and the share of the batch."""
    memory = SimpleNamespace(tokens=None, centres=None, is_padding=None)
    model, criterion = Answer(SimpleNamespace(memory=memory)), Criterion({"loss": torch.tensor(1.0)})
    auxiliaries = {"dense": Answer(torch.tensor(8.0)), "extra_queries": Answer("extra")}
    recipe = updated(RECIPES["paper"], {"dense_aux_weight": 3.0, "query_groups": 2}, "")
    images = torch.zeros(1, 3, 2, 2)
    losses = Objective(model, criterion, auxiliaries, recipe)(images, None, [{}], TOTALS, batch_size=4)
    assert model.asked == [(images, None, "extra")]
    assert criterion.asked == [(model.answer, [{}], TOTALS, 2)]
    assert (float(losses["loss_dense"]), float(losses["loss"])) == (2.0, 7.0)


def test_a_class_loss_for_another_classification_is_refused_with_both_names():
    config = updated(PRESETS["detr-tiny"].model, {"num_classes": 3}, "")
    with pytest.raises(ConfigError, match=r"class_loss = 'ia_bce' and model.classification = 'softmax' cannot be combined"):
        build_criterion(config, RECIPES["fast"])
    assert build_criterion(config, usual_recipe(config)).classification == "softmax"
    assert build_criterion(PRESETS["conditional-detr-tiny"].model, RECIPES["fast"]).classification == "ia_bce"
