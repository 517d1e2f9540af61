"""Compare a training step, and matching with losses alone, with transformers, and profile the step.

Both libraries are timed in turns. The profile is of this library's step.

Command: python benchmarks/train_step.py        Time: about 2 minutes on 2 cores.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection
from transformers.loss.loss_utils import LOSS_MAPPING

from conditional_detr import SetCriterion, create_model, make_step

Targets = list[dict[str, Tensor]]
KINDS = {  # operation in PyTorch's profiler → kind of operation
    "aten::convolution_backward": "convolutions, backward",
    "aten::mkldnn_convolution": "convolutions, forward",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention, backward",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention, forward",
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::bmm": "matrix products",
    "aten::_fused_adamw": "optimiser",
    "aten::linalg_vector_norm": "gradient norm",
    "aten::copy_": "copies",
}


def objects(generator: torch.Generator, images: int, each: int) -> Targets:
    """Random targets: `each` boxes of random classes for every image."""
    return [
        {
            "labels": torch.randint(0, 91, (each,), generator=generator),
            "boxes": torch.rand(each, 4, generator=generator) * 0.3 + 0.3,
        }
        for _ in range(images)
    ]


def compare(what: str, theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> None:
    """Time both in turns and print their medians and the ratio."""
    times: dict[str, list[float]] = {"transformers": [], "ours": []}
    for number in range(rounds + 1):
        for name, run in (("transformers", theirs), ("ours", ours)):
            start = time.perf_counter()
            run()
            if number:  # round 0 is a warm-up
                times[name].append(time.perf_counter() - start)
    theirs_s, ours_s = (median(times[name]) for name in ("transformers", "ours"))
    print(f"{what}: transformers {1000 * theirs_s:.0f} ms, ours {1000 * ours_s:.0f} ms, {theirs_s / ours_s:.1f} times as fast")


def step_of_both(rounds: int, amp: str, dropout: float) -> Callable[[], object]:
    """Compare a training step: R50, batch size 2, 512 x 512 px. Return this library's step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 512, 512, generator=generator)
    is_padding = torch.zeros(2, 512, 512, dtype=torch.bool)
    is_padding[1, 448:] = True
    targets = objects(generator, images=2, each=8)
    labels = [{"boxes": t["boxes"], "class_labels": t["labels"]} for t in targets]

    config = ConditionalDetrConfig(use_pretrained_backbone=False, num_labels=91, auxiliary_loss=True, dropout=dropout)
    peer = ConditionalDetrForObjectDetection(config).train()
    optimizer = torch.optim.AdamW([p for p in peer.parameters() if p.requires_grad], 1e-5)

    def theirs() -> None:
        peer(images, (~is_padding).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()

    model = create_model("conditional-detr-r50", num_classes=91, pretrained_backbone=False, dropout=dropout)
    step = make_step(model, amp=amp)
    compare(
        f"training step, R50, batch size 2, 512 x 512 px, dropout {dropout:g}",
        theirs,
        lambda: step(images, is_padding, targets),
        rounds,
    )
    return lambda: step(images, is_padding, targets)


def objective_of_both(rounds: int) -> None:
    """Compare matching and losses, forward and backward: 6 layers, batch size 8, 300 queries, 20 objects per image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 8, 300, 91, generator=generator) - 4
    boxes = torch.rand(6, 8, 300, 4, generator=generator) * 0.4 + 0.1
    targets = objects(generator, images=8, each=20)
    labels = [{"boxes": t["boxes"], "class_labels": t["labels"]} for t in targets]
    config = ConditionalDetrConfig(use_pretrained_backbone=False, num_labels=91, auxiliary_loss=True)
    peer, criterion = LOSS_MAPPING["ConditionalDetrForObjectDetection"], SetCriterion(num_classes=91)
    tiny = create_model("conditional-detr-tiny", num_classes=91, pretrained_backbone=False).eval()
    record = tiny(torch.zeros(1, 3, 64, 64), aux=True)

    def theirs() -> None:
        a, b = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
        peer(a[-1], labels, a.device, b[-1], config, a, b)[0].backward()

    def ours() -> None:
        a, b = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
        output = replace(record, pred_logits=a[-1], pred_boxes=b[-1], aux_logits=a[:-1], aux_boxes=b[:-1])
        criterion(output, targets)["loss"].backward()

    compare("matching and losses", theirs, ours, 4 * rounds)


def where_it_goes(step: Callable[[], object]) -> None:
    """Print the fraction of time of each kind of operation, and the FLOP/s of the step."""
    with FlopCounterMode(display=False) as counter:
        step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    shares: dict[str, float] = defaultdict(float)
    for event in record.key_averages():
        shares[KINDS.get(event.key, "the rest")] += event.self_cpu_time_total
    total = sum(shares.values())
    gflop = counter.get_total_flops() / 1e9
    print(f"convolutions, matrix products, attention: {gflop:.0f} GFLOP, {gflop / seconds:.0f} GFLOP/s over the whole step")
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {share / total:6.1%}  {name}")


def main() -> None:
    """Run both comparisons and the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--amp", default="auto", help="auto, bf16 or off")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout of both models")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    objective_of_both(options.rounds)
    where_it_goes(step_of_both(options.rounds, options.amp, options.dropout))


if __name__ == "__main__":
    main()
