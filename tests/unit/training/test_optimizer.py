import pytest
import torch

from batches import batch
from conditional_detr.config.messages import updated
from conditional_detr.config.recipes import RECIPES
from conditional_detr.errors import ConfigError
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.optimizer import build_optimizer, lr_factor, scaled_parameters
from conditional_detr.training.optim.run_schedule import RunSchedule
from conditional_detr.training.train_step import make_step


def test_the_backbone_has_its_own_rate_and_zero_freezes_it(small_model):
    optimizer = build_optimizer(small_model, RECIPES["paper"])
    assert [g["lr"] for g in optimizer.param_groups] == [1e-4, 1e-5]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(p.requires_grad for p in small_model.parameters())
    frozen = build_optimizer(small_model, updated(RECIPES["paper"], {"lr_backbone": 0}, ""))
    assert len(frozen.param_groups) == 1
    assert not any(p.requires_grad for p in small_model.backbone.parameters())


def test_frozen_stages_stay_and_the_others_learn(small_model):
    step = make_step(small_model, "off", updated(RECIPES["fast"], {"freeze": 2}, ""))
    before = {name: p.detach().clone() for name, p in small_model.backbone.named_parameters()}
    step(*batch())
    moved = {name for name, p in small_model.backbone.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not any(name.startswith(("body.conv_stem", "body.blocks.0.", "body.blocks.1.")) for name in moved)
    assert any(name.startswith("body.blocks.2.") for name in moved)
    with pytest.raises(ConfigError, match="freeze cannot be 9"):
        make_step(small_model, "off", updated(RECIPES["fast"], {"freeze": 9}, ""))


def test_the_papers_schedule_drops_once_between_epochs():
    recipe = RECIPES["paper"]
    plan = RunSchedule(recipe, steps=10, images=5)
    states = [TrainerState(epoch=step // 10, position=step % 10) for step in range(500)]
    factors = [lr_factor(step, plan.progress_fraction(state), recipe) for step, state in enumerate(states)]
    assert factors == [1.0] * 400 + [0.1] * 100


def test_warm_up_and_cosine():
    recipe = updated(RECIPES["paper"], {"warmup_steps": 10, "schedule": "cosine", "epochs": 10}, "")
    factors = [lr_factor(step, step / 100, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1, abs=0.05)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.02 <= factors[-1] < 0.03


class Offsets(torch.nn.Linear):
    lr_scale = 0.1


class Refiner(torch.nn.Module):
    lr_scale = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.offsets = torch.nn.Linear(2, 3), Offsets(2, 2)


def test_a_module_may_have_a_multiple_of_the_learning_rate(small_model):
    before = [len(g["params"]) for g in build_optimizer(small_model, RECIPES["paper"]).param_groups]
    small_model.refiner = Refiner()
    optimizer = build_optimizer(small_model, RECIPES["paper"])
    assert [len(group["params"]) for group in optimizer.param_groups] == [*before, 2, 2]
    assert [group["base_lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-5, 5e-5, 1e-5])
    assert scaled_parameters(small_model) == dict(zip(small_model.refiner.parameters(), [0.5, 0.5, 0.1, 0.1], strict=True))


def test_the_backbone_keeps_its_own_rate_whatever_its_modules_say(small_model):
    small_model.backbone.lr_scale = 0.1
    optimizer = build_optimizer(small_model, RECIPES["paper"])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-5]
