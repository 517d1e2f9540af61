"""transformers' Conditional DETR as an oracle: weights that make faults visible, and its names for our parts."""

import torch
from torch import Tensor, nn
from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection

from conditional_detr.factory import DetectionModel, create_model

# Untrained weights hide faults: all queries come out alike. Gains by the part of the network that a parameter belongs to.
GAINS = {
    "self_attn.o_proj": 0.3, "encoder_attn.o_proj": 2.0, "input_proj": 3.0, "q_content": 3.0, "k_content": 3.0,
    "q_pos": 3.0, "k_pos": 3.0, "q_proj": 2.5, "k_proj": 2.5, "query_scale": 2.0,
}  # fmt: skip


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights with peaked attention and varied feature maps, so that a fault in any part moves the output."""
    generator = torch.Generator().manual_seed(seed)

    def noise(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator)

    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.copy_(1 + 0.1 * noise(buffer).abs())
        elif key.endswith("running_mean"):
            buffer.copy_(0.05 * noise(buffer))
        elif key.endswith("weight"):
            buffer.copy_(0.7 * (1 + 0.1 * noise(buffer)))
        elif key.endswith("bias"):
            buffer.copy_(0.02 * noise(buffer))
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1 and key.endswith("weight"):
            parameter.copy_((1 + 0.1 * noise(parameter)) * (0.7 if "backbone" in key else 1.0))
        elif parameter.dim() == 1:
            parameter.copy_(0.02 * noise(parameter))
        elif "query_position" in key:
            parameter.copy_(noise(parameter))
        else:
            weight = noise(parameter)
            if weight.dim() == 4 and weight.shape[1] > 3:
                weight -= weight.mean((1, 2, 3), keepdim=True)
            default = 1.4 if weight.dim() == 4 else 1.0
            gain = next((g for part, g in GAINS.items() if part in key), default)
            parameter.copy_(gain * weight / weight[0].numel() ** 0.5)
    return model


def build_oracle(num_labels: int, **config: object) -> ConditionalDetrForObjectDetection:
    """transformers' model with filled weights, in eval mode."""
    options = ConditionalDetrConfig(use_pretrained_backbone=False, num_labels=num_labels, **config)
    return fill(ConditionalDetrForObjectDetection(options)).eval()


# ours → theirs, for what stands once and for what stands in every layer
SINGLE = {
    "input_projection.": "model.input_projection.",
    "reference_points.mlp.": "model.decoder.ref_point_head.",
    "decoder.spatial_query.lambda_q.mlp.": "model.decoder.query_scale.",
    "decoder.norm.": "model.decoder.layernorm.",
    "class_head.": "class_labels_classifier.",
    "box_head.mlp.": "bbox_predictor.",
    "backbone.body.": "model.backbone.model.",
}
ENCODER = {
    "self_attention.q.": "self_attn.q_proj.",
    "self_attention.k.": "self_attn.k_proj.",
    "self_attention.v.": "self_attn.v_proj.",
    "self_attention.out.": "self_attn.o_proj.",
    "norm.": "self_attn_layer_norm.",
    "feedforward.linear1.": "mlp.fc1.",
    "feedforward.linear2.": "mlp.fc2.",
    "feedforward.norm.": "final_layer_norm.",
}
DECODER = {
    "self_attention.q_content.": "self_attn.q_content_proj.",
    "self_attention.q_position.": "self_attn.q_pos_proj.",
    "self_attention.k_content.": "self_attn.k_content_proj.",
    "self_attention.k_position.": "self_attn.k_pos_proj.",
    "self_attention.v.": "self_attn.v_proj.",
    "self_attention.out.": "self_attn.o_proj.",
    "norm1.": "self_attn_layer_norm.",
    "cross_attention.q_content.": "encoder_attn.q_content_proj.",
    "cross_attention.q_position.": "encoder_attn.q_pos_proj.",
    "cross_attention.q_spatial.": "encoder_attn.q_pos_sine_proj.",
    "cross_attention.k_content.": "encoder_attn.k_content_proj.",
    "cross_attention.k_spatial.": "encoder_attn.k_pos_proj.",
    "cross_attention.v.": "encoder_attn.v_proj.",
    "cross_attention.out.": "encoder_attn.o_proj.",
    "norm2.": "encoder_attn_layer_norm.",
    "feedforward.linear1.": "mlp.fc1.",
    "feedforward.linear2.": "mlp.fc2.",
    "feedforward.norm.": "final_layer_norm.",
}


def their_name(key: str) -> str:
    """transformers' name of one of our parameters."""
    if key == "object_query":
        return "model.query_position_embeddings.weight"
    for start, theirs in SINGLE.items():
        if key.startswith(start):
            return theirs + key.removeprefix(start)
    part, _, layer, rest = key.split(".", 3)
    names = ENCODER if part == "encoder" else DECODER
    start = next(name for name in names if rest.startswith(name))
    return f"model.{part}.layers.{layer}.{names[start]}{rest.removeprefix(start)}"


def ours_like(oracle: ConditionalDetrForObjectDetection, name: str, **overrides: object) -> DetectionModel:
    """Our model with the oracle's weights, every one of them used, in eval mode."""
    model = create_model(name, num_classes=oracle.config.num_labels, pretrained_backbone=False, **overrides).eval()  # type: ignore[arg-type]
    theirs = {k: v for k, v in oracle.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict({key: theirs.pop(their_name(key)) for key in model.state_dict()})
    assert not theirs, f"unused: {list(theirs)[:3]}"
    return model


def pictures(height: int = 192, width: int = 256) -> tuple[Tensor, Tensor]:
    """Two images, the second padded at its right, and the padding mask."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, height // 32, width // 32, generator=generator)
    images = coarse.repeat_interleave(32, 2).repeat_interleave(32, 3)
    images = images + 0.3 * torch.randn(2, 3, height, width, generator=generator)
    is_padding = torch.zeros(2, height, width, dtype=torch.bool)
    is_padding[1, :, width * 5 // 8 :] = True
    images[1, :, :, width * 5 // 8 :] = 0
    return images, is_padding
