"""Which fields of a model cannot be combined. This follows from which other fields each choice uses."""

from collections.abc import Iterator
from typing import Any

from conditional_detr.config.messages import updated
from conditional_detr.config.schema import ModelConfig
from conditional_detr.errors import ConfigError

POINT = {"reference_points", "spatial_init"}
SAMPLES = {"sampling_points"}
# Field → value → other fields that have an effect with this value. A field of `IDLE` that no current value uses is idle.
USES: dict[str, dict[Any, set[str]]] = {
    "encoder_attention": {"dense": set(), "deformable": SAMPLES},
    "cross_attention": {
        "conditional": {"spatial_query"},
        "box_conditional": {"spatial_query"},
        "additive": set(),
        "deformable": {"reference_points", *SAMPLES},
    },
    "spatial_query": {
        "conditional": {"lambda_q", *POINT},
        "intermediate": {"lambda_q", *POINT},
        "point": POINT,
        "lambda": set(),
        "content": set(),
    },
    "box_refinement": {True: {"reference_points", "size_logit"}, False: {"box_offset"}},
    "box_offset": {True: {"reference_points", "size_logit"}, False: set()},
}
# Value of each field while it is idle, that is, while it has no effect because its module is not built.
IDLE = {
    "box_offset": True, "spatial_query": "conditional", "lambda_q": "diagonal", "reference_points": "origin",
    "spatial_init": "xavier", "sampling_points": 4, "size_logit": 0.0,
}  # fmt: skip


def unused_fields(model: ModelConfig) -> dict[str, str]:
    """Find the fields that have no effect in this configuration.

    Returns
    -------
    for each such field, the assignments that disable it, as text
    """
    idle: dict[str, str] = {}
    for field in IDLE:  # ordered so that a field comes after the fields that use it
        users = [user for user, values in USES.items() if any(field in used for used in values.values())]
        if not any(user not in idle and field in USES[user][getattr(model, user)] for user in users):
            causes = (user for user in users if not set(users) & USES[user][getattr(model, user)])  # not those of another one
            idle[field] = " with ".join(dict.fromkeys(idle.get(user, _assignment(model, user)) for user in causes))
    return idle


def check_parts(model: ModelConfig) -> None:
    """Check that no field has a value that another field rules out.

    Raises
    ------
    ConfigError : names both fields
    """
    if model.cross_attention == "box_conditional" and not model.box_refinement:
        raise ConfigError("cross_attention = 'box_conditional' needs the boxes of the layer before: set box_refinement = true")
    if model.reference_points == "encoder_boxes" and not model.box_refinement:
        raise ConfigError("reference_points = 'encoder_boxes' starts queries from boxes: set box_refinement = true")
    for field, cause in unused_fields(model).items():
        if getattr(model, field) != IDLE[field]:
            raise ConfigError(_conflict(model, field, cause))


def _assignment(model: ModelConfig, field: str) -> str:
    value = getattr(model, field)
    return f"{field} = {str(value).lower() if isinstance(value, bool) else repr(value)}"


def _conflict(model: ModelConfig, field: str, cause: str) -> str:
    return f"{_assignment(model, field)} and {cause} cannot be combined: {field} would have no effect"


def with_overrides(model: ModelConfig, overrides: dict[str, Any], origin: str) -> ModelConfig:
    """Copy a model configuration with some fields changed.

    Fields that lose their effect through these changes are reset to their idle value.

    Parameters
    ----------
    model : the configuration to change
    overrides : new values by field name
    origin : where the overrides come from; starts every error message

    Raises
    ------
    ConfigError : a value is invalid, or an override has no effect in the resulting configuration
    """
    changed = updated(model, dict(_implied(model, overrides)) | overrides, origin)
    idle = unused_fields(changed)
    for field in idle:
        if field in overrides and getattr(changed, field) != "origin":  # always allowed: it means no reference points
            raise ConfigError(f"{origin}: {_conflict(changed, field, idle[field])}")
    return changed.model_copy(update={field: IDLE[field] for field in idle})


def _implied(model: ModelConfig, overrides: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that change with an override: dilation halves the stride of the last stage."""
    if "dilation" in overrides and overrides["dilation"] != model.dilation and len(model.strides) == 1:
        yield "strides", [16 if overrides["dilation"] else 32]
