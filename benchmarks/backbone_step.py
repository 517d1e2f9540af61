"""Time of a backbone's forward and backward pass, with this library's frozen norms and with timm's.

This library folds frozen norms into the convolutions and has its own backward pass for large and dilated depthwise
convolutions. The two networks are timed in turns.

Command: python benchmarks/backbone_step.py        Time: about 2 minutes on 2 cores.
"""

import argparse
import time

import torch
from timm.layers.norm_act import freeze_batch_norm_2d

from conditional_detr.model.backbone.timm_backbone import Backbone, feature_network

CASES = [  # timm name, stride of the stage, dilated, batch size, image side in px
    ("tf_efficientnet_lite0", 16, False, 8, 128),
    ("tf_efficientnet_lite0", 32, True, 8, 128),
    ("resnet18", 32, False, 2, 256),
]


def seconds(network: torch.nn.Module, images: torch.Tensor) -> float:
    """Time of one forward and backward pass, in seconds."""
    start = time.perf_counter()
    out = network(images)
    (out[-1] if isinstance(out, list) else out).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: 9)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, stride, dilation, batch, side in CASES:
        ours = Backbone(name, [stride // 2 if dilation else stride], dilation)
        index = feature_network(name).feature_info.reduction().index(stride)
        extra = {"output_stride": stride // 2} if dilation else {}
        plain = freeze_batch_norm_2d(feature_network(name, out_indices=(index,), **extra))
        for key, parameter in plain.named_parameters():
            parameter.requires_grad_(not key.startswith(("conv1.", "layer1.")))
        networks = {"plain": plain, "ours": ours}
        images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
        times: dict[str, list[float]] = {key: [] for key in networks}
        for network in networks.values():
            network.to(memory_format=torch.channels_last)
            seconds(network, images)
        for _ in range(options.rounds):
            for key, network in networks.items():
                times[key].append(seconds(network, images))
        median = {key: 1000 * sorted(t)[len(t) // 2] for key, t in times.items()}
        form = f"{name}, stage of stride {stride}{', dilated' if dilation else ''}, {batch} x {side} px"
        print(f"{form}: {median['plain']:.0f} ms → {median['ours']:.0f} ms, {median['plain'] / median['ours']:.2f}x")


if __name__ == "__main__":
    main()
