"""Select the modules that an export must not round, by their attribute `export_precision` (see `model.precision`)."""

from collections.abc import Collection

from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.precision import BF16_OR_HIGHER, FLOAT32

IN_GRAPH = "model."  # prefix of module paths in a graph, because `DetectionGraph` wraps the model
NO_MODULE = ("", "model")  # module path of a node whose module is unknown


def modules_not_in_integers(model: DetectionModel) -> list[str]:
    """Paths in the graph of the modules whose matrix products are not quantised to 8-bit integers."""
    return _marked(model, {BF16_OR_HIGHER, FLOAT32})


def modules_in_float32(model: DetectionModel) -> list[str]:
    """Paths in the graph of the modules whose matrix products stay in float32."""
    return _marked(model, {FLOAT32})


def is_within(module: str, marked: Collection[str]) -> bool:
    """Whether a module is marked or part of a marked one. Also True for an unknown module, so that it is not rounded."""
    return module in NO_MODULE or any(f"{module}.".startswith(f"{path}.") for path in marked)


def _marked(model: DetectionModel, precisions: set[str]) -> list[str]:
    modules = model.named_modules()
    return [IN_GRAPH + name for name, module in modules if getattr(module, "export_precision", "") in precisions]
