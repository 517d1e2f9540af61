import copy

import pytest
import torch

from batches import batch
from conditional_detr.config.messages import updated
from conditional_detr.config.presets import PRESETS, recipe_of
from conditional_detr.config.recipes import RECIPES
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.training.train_step import autocast_dtype, make_step


def test_a_step_lowers_the_loss_and_moves_every_parameter_that_has_a_gradient(small_model):
    recipe = updated(RECIPES["paper"], {"lr": 1e-3, "lr_backbone": 1e-3}, "test")
    before = {name: p.detach().clone() for name, p in small_model.named_parameters()}
    step = make_step(small_model, amp="off", recipe=recipe)
    losses = [float(step(*batch())["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    # The first self-attention's content is zero, so these three get a gradient of exactly zero, from the paper's own form.
    still = {name for name, p in small_model.named_parameters() if p.equal(before[name]) and p.requires_grad}
    assert still <= {f"decoder.layers.0.self_attention.{name}.weight" for name in ("q_content", "k_content", "v")}


def test_precision_is_bf16_only_where_the_hardware_has_it(monkeypatch):
    cpu = torch.device("cpu")
    assert autocast_dtype("off", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    monkeypatch.setattr("conditional_detr.training.train_step.has_fast_bf16", lambda device: False)
    assert autocast_dtype("auto", cpu) is None
    monkeypatch.setattr("conditional_detr.training.train_step.has_fast_bf16", lambda device: True)
    assert autocast_dtype("auto", cpu) is torch.bfloat16
    with pytest.raises(ConfigError, match="amp must be one of auto, bf16, off, not 'fp8'"):
        autocast_dtype("fp8", cpu)


def test_a_bf16_step_has_nearly_the_same_loss(small_model):
    twin = copy.deepcopy(small_model)
    exact, rough = (make_step(m, amp, RECIPES["paper"])(*batch()) for m, amp in ((small_model, "off"), (twin, "bf16")))
    assert rough["loss"].dtype == torch.float32
    assert abs(float(rough["loss"]) / float(exact["loss"]) - 1) < 0.02


def test_a_step_without_a_finite_gradient_moves_nothing(small_model):
    images, is_padding, targets = batch()
    step = make_step(small_model, amp="off")
    step(images, is_padding, targets)
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    images[0, 0, 0, 0] = torch.nan
    losses = step(images, is_padding, targets)
    assert not torch.isfinite(losses["gradient_norm"])
    assert all(value.equal(before[name]) for name, value in small_model.state_dict().items())
    images[0, 0, 0, 0] = 0
    assert torch.isfinite(step(images, is_padding, targets)["gradient_norm"])


def test_the_recipe_of_a_step_is_the_one_that_train_takes(small_model):
    assert "loss_dense" in make_step(small_model, amp="off")(*batch())
    assert recipe_of(PRESETS["conditional-detr-r50"].model) == "paper"
    assert recipe_of(small_model.config) == "fast"
    assert recipe_of(updated(small_model.config, {"backbone": "resnet34"}, "")) == "paper"


def test_too_little_memory_for_the_optimiser_is_said_and_not_tried_again(small_model):
    step, tries = make_step(small_model, "off"), []

    def refuse() -> None:
        tries.append(1)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")

    step.optimizer.step = refuse
    with pytest.raises(RunError, match="not enough memory for the optimiser"):
        step(*batch())
    assert len(tries) == 1
