import copy

import pytest
import torch

from conditional_detr.config.messages import updated
from conditional_detr.config.presets import PRESETS, recipe_of
from conditional_detr.config.recipes import RECIPES
from conditional_detr.device.bf16 import _bf16_is_faster, has_fast_bf16
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.optim.optimizer import build_optimizer, lr_factor
from conditional_detr.training.optim.run_schedule import RunSchedule
from conditional_detr.training.train_step import TrainStep, autocast_dtype, make_step, trimmed
from models import small


def batch() -> tuple[torch.Tensor, torch.Tensor, list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    is_padding = torch.zeros(4, 64, 64, dtype=torch.bool)
    is_padding[1, :, 32:] = True
    targets = [
        {
            "labels": torch.randint(3, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.3,
        }
        for n in (2, 0, 5, 1)
    ]
    return images, is_padding, targets


def test_a_step_lowers_the_loss_and_moves_every_parameter_that_has_a_gradient(small_model):
    recipe = updated(RECIPES["paper"], {"lr": 1e-3, "lr_backbone": 1e-3}, "test")
    before = {name: p.detach().clone() for name, p in small_model.named_parameters()}
    step = make_step(small_model, amp="off", recipe=recipe)
    losses = [float(step(*batch())["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    # The first self-attention's content is zero, so these three get a gradient of exactly zero, from the paper's own form.
    still = {name for name, p in small_model.named_parameters() if p.equal(before[name]) and p.requires_grad}
    assert still <= {f"decoder.layers.0.self_attention.{name}.weight" for name in ("q_content", "k_content", "v")}


def test_the_loss_is_the_criterions(small_model):

    with torch.no_grad():
        expected = SetCriterion(3)(small_model(*batch()[:2], aux=True), batch()[2])
    losses = make_step(small_model, amp="off", recipe=RECIPES["paper"])(*batch())
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-4, rtol=1e-4)


def test_a_batch_in_parts_is_the_same_step(small_model):
    twin = copy.deepcopy(small_model)
    whole = make_step(small_model, amp="off", recipe=updated(RECIPES["paper"], {"grad_accum_steps": 1}, ""))
    parts = make_step(twin, amp="off", recipe=updated(RECIPES["paper"], {"grad_accum_steps": 3}, ""))
    a, b = whole(*batch()), parts(*batch())
    torch.testing.assert_close(a["loss"], b["loss"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a["gradient_norm"], b["gradient_norm"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_parts_of_a_batch_beside_each_other_are_the_same_step_as_one_after_the_other(monkeypatch, amp):
    """Groups, helpers, padding and all."""
    model = small(num_classes=3)
    learned, losses, closeness = [], [], {"off": 1e-3, "bf16": 1e-2}[amp]  # bfloat16 itself has steps of 4e-3
    for threads, accumulate in ((1, 2), (2, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        recipe = updated(RECIPES["fast"], {"freeze": 0, "clip_max_norm": 0.0, "grad_accum_steps": accumulate}, "")
        torch.manual_seed(1)
        twin = copy.deepcopy(model)
        step = make_step(twin, amp, recipe)
        losses.append(step(*batch()))
        parameters = dict((*twin.named_parameters(), *step.helpers.named_parameters()))
        learned.append({name: (p.grad, p.detach()) for name, p in parameters.items()})
        assert (step.pool is None) == (threads == 1)
    assert losses[0].keys() == losses[1].keys()
    for name, value in sorted(losses[0].items(), reverse=True):
        torch.testing.assert_close(losses[1][name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    moved = [name for name, (gradient, _) in learned[0].items() if gradient is not None and gradient.norm() > 1e-4]
    assert len(moved) > 100
    for name in moved:
        (gradient, weight), (beside, weight_beside) = learned[0][name], learned[1][name]
        assert (beside - gradient).norm() < closeness * gradient.norm(), name
        if amp == "off":  # Adam's first step goes by signs, which rounding turns where a gradient is next to nothing
            torch.testing.assert_close(weight_beside, weight, atol=1e-5, rtol=1e-4, msg=name)


def test_a_part_without_memory_has_the_others_wait_and_all_of_them_taken_again(small_model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    said: list[str] = []
    step = make_step(small_model, "off", updated(RECIPES["fast"], {"freeze": 0}, ""))
    step.say, forward, sizes = said.append, small_model.forward, []

    def scarce(images: torch.Tensor, *arguments: object, **named: object) -> object:
        sizes.append(len(images))
        if len(sizes) == 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return forward(images, *arguments, **named)

    monkeypatch.setattr(small_model, "forward", scarce)
    assert torch.isfinite(step(*batch())["loss"])
    assert said == ["not enough memory: a batch is worked through in 2 parts from now on"]
    assert sizes == [2, 2, 2, 2]


def test_padding_that_all_images_of_a_part_have_is_cut_off():
    images, mask = torch.randn(2, 3, 8, 10), torch.ones(2, 8, 10, dtype=torch.bool)
    mask[0, :5, :7] = mask[1, :4, :9] = False
    both, both_mask = trimmed(images, mask, 1)
    assert both.equal(images[..., :5, :9])
    torch.testing.assert_close(both_mask, mask[:, :5, :9])
    first, nothing = trimmed(images[:1], mask[:1], 1)
    assert first.equal(images[:1, :, :5, :7])
    assert nothing is None
    multiple, multiple_mask = trimmed(images[:1], mask[:1], 4)
    assert multiple.shape == (1, 3, 8, 8)
    torch.testing.assert_close(multiple_mask, mask[:1, :8, :8])


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0.in1k", "resnet18.tv_in1k"])
def test_gradient_checkpointing_is_the_same_step_and_keeps_less(backbone):
    """Dropout included."""
    model = small(num_classes=3, backbone=backbone, dropout=0.1)
    norms, kept = [], []
    for checkpointing in (False, True):
        step = make_step(copy.deepcopy(model), "off", updated(RECIPES["paper"], {"gradient_checkpointing": checkpointing}, ""))
        seen: dict[int, int] = {}  # storages that the forward pass of the whole leaves behind, in bytes

        def keep(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            norms.append(step(*batch())["gradient_norm"])
        kept.append(sum(seen.values()))
    torch.testing.assert_close(*norms)
    assert kept[1] < 0.5 * kept[0]


def test_the_backbone_has_its_own_rate_and_zero_freezes_it(small_model):
    optimizer = build_optimizer(small_model, RECIPES["paper"])
    assert [g["lr"] for g in optimizer.param_groups] == [1e-4, 1e-5]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(p.requires_grad for p in small_model.parameters())
    frozen = build_optimizer(small_model, updated(RECIPES["paper"], {"lr_backbone": 0}, ""))
    assert len(frozen.param_groups) == 1
    assert not any(p.requires_grad for p in small_model.backbone.parameters())


def test_the_papers_schedule_drops_once_between_epochs():
    recipe = RECIPES["paper"]
    plan = RunSchedule(recipe, steps=10, images=5)
    places = [TrainerState(epoch=step // 10, position=step % 10) for step in range(500)]
    factors = [lr_factor(step, plan.share_done(place), recipe) for step, place in enumerate(places)]
    assert factors == [1.0] * 400 + [0.1] * 100


def test_warm_up_and_cosine():
    recipe = updated(RECIPES["paper"], {"warmup_steps": 10, "schedule": "cosine", "epochs": 10}, "")
    factors = [lr_factor(step, step / 100, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1, abs=0.05)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.02 <= factors[-1] < 0.03


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


def with_room_for(most: int, step: TrainStep) -> list[str]:
    """The step's model has memory for so many images; what the step says of it."""
    forward, told = step.model.forward, []

    def limited(images, *inputs, **options):
        output = forward(images, *inputs, **options)  # which has drawn its dropout
        if len(images) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return output

    step.model.forward, step.say = limited, told.append
    return told


def test_a_batch_that_is_too_large_for_the_memory_is_worked_through_in_parts(small_model):
    """The same step, told once."""
    twin = copy.deepcopy(small_model)
    whole = make_step(small_model, amp="off", recipe=RECIPES["paper"])
    parts = make_step(twin, amp="off", recipe=RECIPES["paper"])
    told = with_room_for(1, parts)
    for _ in range(2):
        a, b = whole(*batch()), parts(*batch())
        torch.testing.assert_close(a["loss"], b["loss"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a["gradient_norm"], b["gradient_norm"], atol=1e-3, rtol=1e-3)
    assert [text.split("through ")[1] for text in told] == ["in 2 parts from now on", "in 4 parts from now on"]


def test_a_step_that_is_taken_again_for_want_of_memory_draws_the_same():
    """Dropout must not notice: losses and random state are those of a step that was in as many parts from the start."""
    model = small(num_classes=3, dropout=0.5)
    images, mask, targets = batch()
    recipe = RECIPES["paper"].model_copy(update={"grad_accum_steps": len(images)})
    states = []
    for most in (1, len(images)):  # the first run is in parts from the start, the second learns that it must be
        step = make_step(copy.deepcopy(model), "off", recipe if most == 1 else RECIPES["paper"])
        with_room_for(1, step)
        torch.manual_seed(3)
        losses = step(images, mask, targets)
        states.append((losses["loss"], torch.get_rng_state()))
    torch.testing.assert_close(states[0][0], states[1][0], atol=0, rtol=0)
    assert states[0][1].equal(states[1][1])


def test_too_little_memory_for_the_optimiser_is_said_and_not_tried_again(small_model):
    step, tries = make_step(small_model, "off"), []

    def refuse() -> None:
        tries.append(1)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")

    step.optimizer.step = refuse
    with pytest.raises(RunError, match="not enough memory for the optimiser"):
        step(*batch())
    assert len(tries) == 1


def test_too_little_memory_for_one_image_is_said(small_model):
    step = make_step(small_model)
    with_room_for(0, step)
    with pytest.raises(RunError, match="not enough memory for 1 images at a time: give a smaller --imgsz"):
        step(*batch())


def test_other_faults_are_not_taken_for_a_lack_of_memory(small_model):
    step = make_step(small_model)

    def fall(*_, **__):
        raise RuntimeError("sizes do not match")

    step.model.forward = fall
    with pytest.raises(RuntimeError, match="sizes do not match"):
        step(*batch())


def test_groups_learn_as_if_each_were_the_only_one(small_model):
    """Three groups with the same queries lose what one loses, and their gradients add up to its."""
    images, padding_mask, targets = batch()
    further = small_model.object_query.detach().repeat(2, 1)
    criterion = SetCriterion(3)
    alone = criterion(small_model(images, padding_mask, aux=True), targets)
    output = small_model(images, padding_mask, aux=True, further_queries=further)
    assert output.pred_logits.shape[1] == 3 * len(small_model.object_query)
    together = criterion(output, targets, groups=3)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value)


def test_a_group_does_not_see_the_others(small_model):
    images, padding_mask, _ = batch()
    small_model.eval()
    alone = small_model(images, padding_mask)
    others = torch.randn(2 * len(small_model.object_query), small_model.object_query.shape[1])
    with_others = small_model.train()(images, padding_mask, further_queries=others)
    torch.testing.assert_close(
        with_others.pred_boxes[:, : len(small_model.object_query)], alone.pred_boxes, atol=1e-5, rtol=1e-4
    )


def test_every_query_of_every_group_learns(small_model):
    step = make_step(small_model, "off", updated(RECIPES["paper"], {"query_groups": 3}, ""))
    queries = step.helpers["further_queries"].queries
    before = queries.detach().clone()
    step(*batch())
    assert queries.shape == (2 * len(small_model.object_query), small_model.object_query.shape[1])
    assert ((queries - before).abs().amax(1) > 0).all()
    assert set(small_model.state_dict()) == set(copy.deepcopy(small_model).state_dict())


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


def test_a_processor_needs_the_instructions_and_the_speed_for_bf16(monkeypatch):
    timed: list[bool] = []
    monkeypatch.setattr("conditional_detr.device.bf16._bf16_is_faster", lambda: bool(timed.append(True)) or faster)
    for known, faster in (({}, True), ({"avx512_bf16": True}, False), ({"avx512_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert has_fast_bf16(torch.device("cpu")) == (bool(known) and faster)
    assert len(timed) == 2  # without the instructions a product would take minutes


@pytest.mark.parametrize(("times_as_fast", "expected"), [(1.3, True), (1.1, False), (0.5, False)])
def test_bf16_is_taken_where_its_products_are_a_fifth_faster(monkeypatch, times_as_fast, expected):
    clock, turn = [0.0], [0]

    def tick() -> float:  # asked before and after each product; float32 and bfloat16 take turns
        if turn[0] % 2:
            clock[0] += times_as_fast if turn[0] % 4 == 1 else 1.0
        turn[0] += 1
        return clock[0]

    monkeypatch.setattr("conditional_detr.device.bf16.time.perf_counter", tick)
    assert _bf16_is_faster.__wrapped__() == expected
