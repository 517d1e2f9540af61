"""Which fields of a model exclude each other."""

from typing import Any

from conditional_detr.config.messages import updated
from conditional_detr.config.schema import ModelConfig
from conditional_detr.errors import ConfigError

# A part that another choice makes meaningless is not built; the field then says this.
IDLE = {"spatial_query": "conditional", "lambda_q": "diagonal", "reference_points": "origin", "spatial_init": "xavier"}


def idle_fields(model: ModelConfig) -> dict[str, str]:
    """Fields that mean nothing beside the others, each with the choice that makes it so."""
    idle = {}
    if additive := model.cross_attention == "additive":
        idle["spatial_query"] = "cross_attention = 'additive'"
    if additive or model.spatial_query not in ("conditional", "intermediate"):
        idle["lambda_q"] = idle.get("spatial_query", f"spatial_query = {model.spatial_query!r}")
    if additive or model.spatial_query in ("lambda", "content"):  # nothing looks from the reference points
        idle["spatial_init"] = idle["lambda_q"]
        if not model.box_offset:
            idle["reference_points"] = f"{idle['lambda_q']} with box_offset = false"
    return idle


def check_parts(model: ModelConfig) -> None:
    """No field may ask for what another rules out.

    Raises
    ------
    ConfigError : names both
    """
    for field, cause in idle_fields(model).items():
        if getattr(model, field) != IDLE[field]:
            raise ConfigError(_conflict(model, field, cause))


def _conflict(model: ModelConfig, field: str, cause: str) -> str:
    return f"{field} = {getattr(model, field)!r} and {cause} exclude each other: nothing would be left for {field} to do"


def with_overrides(model: ModelConfig, overrides: dict[str, Any], origin: str) -> ModelConfig:
    """The same model with some fields changed.

    What these changes make meaningless falls away with them; what is asked for although it is meaningless is an error.
    """
    changed = updated(model, overrides, origin)
    idle = idle_fields(changed)
    for field in idle:
        if field in overrides and getattr(changed, field) != "origin":  # which says that there is no point, and is true
            raise ConfigError(f"{origin}: {_conflict(changed, field, idle[field])}")
    return changed.model_copy(update={field: IDLE[field] for field in idle})
