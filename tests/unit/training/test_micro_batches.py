import copy
from collections.abc import Callable

import pytest
import torch

from batches import batch
from conditional_detr.config.messages import updated
from conditional_detr.config.recipes import RECIPES, RecipeConfig
from conditional_detr.data.loader import Batch
from conditional_detr.errors import RunError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.execution.micro_batches import trimmed
from conditional_detr.training.train_step import TrainStep, build_step, make_step, trainable
from models import small

OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."


def without_padding() -> Batch:
    """Images of one size, which may share a part."""
    images, _, targets = batch()
    return images, None, targets


def sizes_of_parts(model: DetectionModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of images of each forward pass from now on."""
    sizes: list[int] = []
    forward = model.forward

    def noted(images: torch.Tensor, *arguments: object, **named: object) -> object:
        sizes.append(len(images))
        return forward(images, *arguments, **named)

    monkeypatch.setattr(model, "forward", noted)
    return sizes


@pytest.mark.parametrize("threads", [1, 2])
def test_on_the_cpu_no_image_is_padded_to_the_size_of_another_one(small_model, monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sizes = sizes_of_parts(small_model, monkeypatch)
    step = make_step(small_model, amp="off", recipe=RECIPES["paper"])
    step(*batch())
    step(*without_padding())
    assert sizes == [1, 1, 1, 1] + [[4], [2, 2]][threads - 1]


def test_a_batch_in_parts_is_the_same_step(small_model):
    twin = copy.deepcopy(small_model)
    whole = make_step(small_model, amp="off", recipe=updated(RECIPES["paper"], {"grad_accum_steps": 1}, ""))
    parts = make_step(twin, amp="off", recipe=updated(RECIPES["paper"], {"grad_accum_steps": 3}, ""))
    a, b = whole(*without_padding()), parts(*without_padding())
    torch.testing.assert_close(a["loss"], b["loss"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a["gradient_norm"], b["gradient_norm"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_parts_of_a_batch_side_by_side_are_the_same_step_as_one_after_the_other(monkeypatch, amp):
    """Query groups, auxiliary modules, padding and all."""
    model = small(num_classes=3)
    learned, losses, closeness = [], [], {"off": 1e-3, "bf16": 1e-2}[amp]  # bfloat16 itself has steps of 4e-3
    for threads, accumulate in ((1, 2), (2, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        recipe = updated(RECIPES["fast"], {"freeze": 0, "clip_max_norm": 0.0, "grad_accum_steps": accumulate}, "")
        torch.manual_seed(1)
        twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
        learning = trainable(twin, recipe)
        step = build_step(learning, recipe, amp)
        losses.append(step(*batch()))
        parameters = dict((*twin.named_parameters(), *learning.auxiliaries.named_parameters()))
        learned.append({name: (p.grad, p.detach()) for name, p in parameters.items()})
        assert (step.gradients.pool is None) == (threads == 1)
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


def test_in_bfloat16_parts_side_by_side_are_the_same_step_every_time():
    """Weights that are used several times, as Λ_q's, add up the same whichever thread is first."""
    torch.set_num_threads(4)
    losses = set()
    for _ in range(3):
        step = make_step(small(num_classes=3, decoder_layers=6, hidden_dim=64), amp="bf16")
        for _ in range(4):
            last = step(*batch())
        losses.add((float(last["loss"]), float(last["gradient_norm"])))
    assert len(losses) == 1


def test_a_part_without_memory_has_the_others_wait_and_all_of_them_taken_again(small_model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    said, sizes, forward = [], [], small_model.forward
    step = step_of(small_model, updated(RECIPES["fast"], {"freeze": 0}, ""), said.append)

    def scarce(images: torch.Tensor, *arguments: object, **named: object) -> object:
        sizes.append(len(images))
        if len(sizes) == 1:
            raise RuntimeError(OUT_OF_MEMORY)
        return forward(images, *arguments, **named)

    monkeypatch.setattr(small_model, "forward", scarce)
    assert torch.isfinite(step(*without_padding())["loss"])
    assert said == ["not enough memory: each batch is processed in 2 parts from now on (same result)"]
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


def step_of(model: DetectionModel, recipe: RecipeConfig, say: Callable[[str], object] = print) -> TrainStep:
    """A step in float32 that says when it splits batches further."""
    return build_step(trainable(model, recipe), recipe, "off", say=say)


def with_room_for(most: int, model: DetectionModel) -> DetectionModel:
    """The model, which has memory for so many images."""
    forward = model.forward

    def limited(images, *inputs, **options):
        output = forward(images, *inputs, **options)  # which has drawn its dropout
        if len(images) > most:
            raise RuntimeError(OUT_OF_MEMORY)
        return output

    model.forward = limited
    return model


def test_a_batch_that_is_too_large_for_the_memory_is_worked_through_in_parts(small_model):
    """The same step, said once."""
    twin = copy.deepcopy(small_model)
    said: list[str] = []
    whole = step_of(small_model, RECIPES["paper"])
    parts = step_of(with_room_for(1, twin), RECIPES["paper"], said.append)
    for _ in range(2):
        a, b = whole(*without_padding()), parts(*without_padding())
        torch.testing.assert_close(a["loss"], b["loss"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a["gradient_norm"], b["gradient_norm"], atol=1e-3, rtol=1e-3)
    assert [text.split("processed ")[1] for text in said] == [f"in {parts} parts from now on (same result)" for parts in (2, 4)]


def test_a_step_that_is_taken_again_for_want_of_memory_draws_the_same():
    """Dropout must not notice: losses and random state are those of a step that was in as many parts from the start."""
    model = small(num_classes=3, dropout=0.5)
    images, mask, targets = without_padding()
    recipe = RECIPES["paper"].model_copy(update={"grad_accum_steps": len(images)})
    states = []
    for most in (1, len(images)):  # the first run is in parts from the start, the second learns that it must be
        step = step_of(with_room_for(1, copy.deepcopy(model)), recipe if most == 1 else RECIPES["paper"])
        torch.manual_seed(3)
        losses = step(images, mask, targets)
        states.append((losses["loss"], torch.get_rng_state()))
    torch.testing.assert_close(states[0][0], states[1][0], atol=0, rtol=0)
    assert states[0][1].equal(states[1][1])


def test_too_little_memory_for_one_image_is_said(small_model):
    step = make_step(with_room_for(0, small_model))
    with pytest.raises(RunError, match="not enough memory for 1 images at a time: use a smaller --imgsz"):
        step(*batch())


def test_other_faults_are_not_taken_for_a_lack_of_memory(small_model):
    def fall(*_, **__):
        raise RuntimeError("sizes do not match")

    step = make_step(small_model)
    small_model.forward = fall
    with pytest.raises(RuntimeError, match="sizes do not match"):
        step(*batch())
