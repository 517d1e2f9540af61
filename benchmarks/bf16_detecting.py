"""AP of a model in bfloat16, with different parts kept in float32 (decision 010).

The result of every operation is rounded to bfloat16, except in the parts that stay in float32. This emulates bfloat16 hardware
on any processor. The last line keeps the same parts in float32 as exports do.

Command: python benchmarks/bf16_detecting.py RUN DATA        Time: about 1 minute.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

from conditional_detr import load_model
from conditional_detr.data.index import load_split
from conditional_detr.exporting.verification import average_precision, detect_all
from conditional_detr.model import detr

POSITION = ((detr, "build_memory"),)


class Rounded(TorchDispatchMode):
    """Rounds the result of every operation to bfloat16."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if function.is_view:
            return output
        if function._schema.is_mutable:
            if isinstance(output, Tensor) and output.dtype == torch.float32:
                torch.ops.aten.copy_.default(output, output.bfloat16())
            return output
        return tree_map(lambda x: x.bfloat16().float() if isinstance(x, Tensor) and x.dtype == torch.float32 else x, output)


def untouched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it runs without rounding, in float32."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return run


@contextmanager
def float32(owners: tuple[tuple[Any, str], ...]) -> Iterator[None]:
    """Keep functions and methods, given as (owner, name), in float32 within the context."""
    with ExitStack() as stack:
        for owner, name in owners:
            stack.enter_context(patch.object(owner, name, untouched(getattr(owner, name))))
        yield


class Subject:
    """A model with all operations rounded to bfloat16, with the interface that `detect_all` needs."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, images: Tensor, padding_mask: Tensor | None = None, *, aux: bool | None = None) -> Any:
        with torch.inference_mode(False), torch.no_grad(), Rounded():
            return self.model(images.clone(), None if padding_mask is None else padding_mask.clone(), aux=aux)


def main() -> None:
    """Print the AP for each set of parts that stay in float32."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("data", type=Path, help="data set with annotations")
    parser.add_argument("--split", default="valid", help="split to evaluate (default: valid)")
    options = parser.parse_args()
    index, model = load_split(options.data, options.split), load_model(options.run)
    heads, folded = ((model.class_head, "forward"), (model.box_head, "forward")), ((model.reference_points, "forward"),)
    kept = {
        "reference points": folded,
        "reference points and positions": (*folded, *POSITION),
        "reference points and heads": (*folded, *heads),
        "reference points, positions and heads (as in exports)": (*folded, *POSITION, *heads),
    }
    print(f"float32: everything: AP {average_precision(model, detect_all(model, index.paths), index):.4f}")
    for name, owners in kept.items():
        with float32(owners):
            found = detect_all(Subject(model), index.paths)
        print(f"float32: {name}: AP {average_precision(model, found, index):.4f}", flush=True)


if __name__ == "__main__":
    main()
