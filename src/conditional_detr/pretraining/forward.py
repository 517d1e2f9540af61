"""The forward pass of pre-training."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.model.patches import PatchQueries
from conditional_detr.model.precision import float32_region


def pretraining_output(
    model: DetectionModel,
    images: Float[Tensor, "B 3 H W"],
    padding_mask: Bool[Tensor, "B H W"] | None,
    patches: Float[Tensor, "B x 3 h w"],
    *,
    kept: Bool[Tensor, "B Q"] | None = None,
    aux: bool | None = None,
) -> DetectionOutput:
    """Predict where the patches were cut out of their images.

    Source: UP-DETR (Dai et al., CVPR 2021), section 3, and released code.

    Parameters
    ----------
    model : a model for pre-training, with `patches` in its configuration
    images, padding_mask : as for a detector
    patches : 1 to M patches of each image, normalised as the images are
    kept : whether a query carries its patch; a query without one sees only its object query. None = all in eval mode, nine of
        ten in training mode, drawn at random
    aux : whether to return the predictions of the earlier layers too; None = only in training mode

    Returns
    -------
    predictions of the queries of all patches: those of patch j are j·(Q // M) to (j + 1)·(Q // M). `pred_features` and
    `aux_features` are predicted features of the patches, and `patch_features` [B, x, C] are those of the backbone

    Raises
    ------
    ConfigError : the model is a detector, or there are more patches than it has groups of queries
    """
    start = model.reference_points
    if not isinstance(start, PatchQueries):
        raise ConfigError("this model is a detector, which takes no patches: create it with patches=10 for pre-training")
    if patches.dim() != 5 or patches.shape[2] != 3:
        raise ConfigError(f"patches must be [B, x, 3, h, w], not {list(patches.shape)}")
    batch, count = patches.shape[:2]
    if not 1 <= count <= start.patches:
        raise ConfigError(f"there must be 1 to {start.patches} patches for each image, not {count}")
    if len(images) != batch:
        raise ConfigError(f"there must be patches for each image: {len(images)} images, patches of {batch}")
    if kept is not None and (kept.dtype != torch.bool or kept.shape != (batch, model.config.num_queries)):
        raise ConfigError(
            f"kept must be bool [{batch}, {model.config.num_queries}], images and queries, not {kept.dtype} {list(kept.shape)}"
        )
    with torch.no_grad():  # the targets of the features; the backbone is frozen in pre-training
        features = model.backbone(patches.flatten(0, 1))[-1].mean((-2, -1)).unflatten(0, (batch, count))
    memory = model.encode(images, padding_mask)
    with float32_region(images):
        features = features.float()
        queries = start.with_patches(model.object_query, memory, features, kept)
    output = model.predict(queries, memory, aux)
    return replace(output, patch_features=features)
