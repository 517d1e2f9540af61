"""The models of transformers as oracles: weights that make faults visible, and our model with the same ones."""

import torch
from torch import Tensor, nn
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    PreTrainedModel,
)

from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.weights.foreign_limits import backbone_of
from conditional_detr.weights.huggingface import BACKBONE
from conditional_detr.weights.key_mapping import VERSION_5, VERSION_5_CONDITIONAL, KeyTable, renamed, without_copies

# Untrained weights hide faults: all queries come out alike. Gains by the part of the network that a parameter belongs to.
GAINS = {
    "self_attn.o_proj": 0.3, "encoder_attn.o_proj": 2.0, "input_proj": 3.0, "q_content": 3.0, "k_content": 3.0,
    "q_pos": 3.0, "k_pos": 3.0, "q_proj": 2.5, "k_proj": 2.5, "query_scale": 2.0,
}  # fmt: skip
KINDS = {
    "conditional": (ConditionalDetrConfig, ConditionalDetrForObjectDetection),
    "detr": (DetrConfig, DetrForObjectDetection),
    "deformable": (DeformableDetrConfig, DeformableDetrForObjectDetection),
}
FAMILIES = {"conditional": "conditional-detr", "detr": "detr", "deformable": "deformable-detr-ss"}
MORE = {"deformable": {"num_feature_levels": 1}}  # what a configuration must say


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights with peaked attention and varied feature maps, so that a fault in any part moves the output."""
    generator = torch.Generator().manual_seed(seed)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_var", "running_mean", "weight", "bias")):
            buffer.copy_(filled_buffer(key, torch.randn(buffer.shape, generator=generator)))
    for key, parameter in model.named_parameters():
        parameter.copy_(filled_parameter(key, torch.randn(parameter.shape, generator=generator)))
    return model


def filled_buffer(key: str, noise: Tensor) -> Tensor:
    if key.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if key.endswith("running_mean"):
        return 0.05 * noise
    return 0.7 * (1 + 0.1 * noise) if key.endswith("weight") else 0.02 * noise


def filled_parameter(key: str, noise: Tensor) -> Tensor:
    if noise.dim() == 1 and key.endswith("weight"):
        return (1 + 0.1 * noise) * (0.7 if "backbone" in key else 1.0)
    if noise.dim() == 1:
        return 0.02 * noise
    if "query_position" in key:
        return noise
    if noise.dim() == 4 and noise.shape[1] > 3:
        noise = noise - noise.mean((1, 2, 3), keepdim=True)
    gain = next((g for part, g in GAINS.items() if part in key), 1.4 if noise.dim() == 4 else 1.0)
    return gain * noise / noise[0].numel() ** 0.5


def build_oracle(kind: str, num_labels: int = 7, **config: object) -> PreTrainedModel:
    """transformers' model with filled weights, in eval mode."""
    configuration, model = KINDS[kind]
    config = {"use_pretrained_backbone": False, "num_labels": num_labels, **MORE.get(kind, {}), **config}
    return fill(model(configuration(**config))).eval()


def state_of(oracle: PreTrainedModel, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an oracle by the names that `KeyTable` knows."""
    conditional = oracle.config.model_type == "conditional_detr"
    return without_copies(renamed(values, VERSION_5, VERSION_5_CONDITIONAL if conditional else []), "the oracle")


def ours_like(oracle: PreTrainedModel, dilation: bool = False) -> DetectionModel:
    """Our model with the oracle's weights, handed over in memory, in eval mode."""
    config = oracle.config
    family = next(FAMILIES[kind] for kind, (_, model) in KINDS.items() if isinstance(oracle, model))
    state = state_of(oracle, oracle.state_dict())
    ours = create_model(
        f"{family}-r50",
        config.num_labels,
        pretrained_backbone=False,
        backbone=f"{backbone_of(state, BACKBONE, oracle)}.tv_in1k",
        dilation=dilation,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
    )
    keys = ours.state_dict()
    table = KeyTable("huggingface", ours.config.cross_attention)
    assert set(table.to_foreign(keys)) == set(state)
    ours.load_state_dict(table.from_foreign(state, keys))
    return ours.eval()


def random_images(height: int = 192, width: int = 256) -> tuple[Tensor, Tensor]:
    """Two images, the second padded at its right, and the padding mask."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, height // 32, width // 32, generator=generator)
    images = coarse.repeat_interleave(32, 2).repeat_interleave(32, 3)
    images = images + 0.3 * torch.randn(2, 3, height, width, generator=generator)
    is_padding = torch.zeros(2, height, width, dtype=torch.bool)
    is_padding[1, :, width * 5 // 8 :] = True
    images[1, :, :, width * 5 // 8 :] = 0
    return images, is_padding
