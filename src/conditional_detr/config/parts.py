"""Which fields of a model exclude each other: follows from what each part uses."""

from collections.abc import Iterator
from typing import Any

from conditional_detr.config.messages import updated
from conditional_detr.config.schema import ModelConfig
from conditional_detr.errors import ConfigError

POINT = {"reference_points", "spatial_init"}
# Field → value → the fields that this part uses. A field of `IDLE` that no chosen part uses is idle.
USES: dict[str, dict[Any, set[str]]] = {
    "cross_attention": {"conditional": {"spatial_query"}, "additive": set()},
    "spatial_query": {
        "conditional": {"lambda_q", *POINT},
        "intermediate": {"lambda_q", *POINT},
        "point": POINT,
        "lambda": set(),
        "content": set(),
    },
    "box_offset": {True: {"reference_points"}, False: set()},
}
# What an idle field says: its part is not built.
IDLE = {"spatial_query": "conditional", "lambda_q": "diagonal", "reference_points": "origin", "spatial_init": "xavier"}


def idle_fields(model: ModelConfig) -> dict[str, str]:
    """Fields that mean nothing beside the others, each with the choices that make it so."""
    idle: dict[str, str] = {}
    for field in IDLE:  # in the order in which they use each other
        users = [user for user, values in USES.items() if any(field in used for used in values.values())]
        if not any(user not in idle and field in USES[user][getattr(model, user)] for user in users):
            idle[field] = " with ".join(idle.get(user, _assignment(model, user)) for user in users)
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


def _assignment(model: ModelConfig, field: str) -> str:
    value = getattr(model, field)
    return f"{field} = {str(value).lower() if isinstance(value, bool) else repr(value)}"


def _conflict(model: ModelConfig, field: str, cause: str) -> str:
    return f"{_assignment(model, field)} and {cause} exclude each other: nothing would be left for {field} to do"


def with_overrides(model: ModelConfig, overrides: dict[str, Any], origin: str) -> ModelConfig:
    """The same model with some fields changed.

    What these changes make meaningless falls away with them; what is asked for although it is meaningless is an error.
    """
    changed = updated(model, dict(_implied(model, overrides)) | overrides, origin)
    idle = idle_fields(changed)
    for field in idle:
        if field in overrides and getattr(changed, field) != "origin":  # which says that there is no point, and is true
            raise ConfigError(f"{origin}: {_conflict(changed, field, idle[field])}")
    return changed.model_copy(update={field: IDLE[field] for field in idle})


def _implied(model: ModelConfig, overrides: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dilation halves the stride of the last stage."""
    if "dilation" in overrides and overrides["dilation"] != model.dilation:
        yield "strides", [16 if overrides["dilation"] else 32]
