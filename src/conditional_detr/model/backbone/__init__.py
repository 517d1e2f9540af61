"""Backbones and necks.

timm loads torchvision, which loads torch's compiler only for a function of RoI align. That takes longer than loading torch
itself. Nothing here compiles or aligns, so the compiler is loaded only when something uses it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo.utils"  # the module of the compiler that torchvision imports functions from


class PostponedModule(ModuleType):
    """A stand-in for a module of functions. A function that is imported from it loads the module when it is called."""

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function.startswith("__"):
            raise AttributeError(function)

        def load_and_call(*inputs: Any, **options: Any) -> Any:
            return getattr(import_module(self.__name__), function)(*inputs, **options)

        return load_and_call


@contextmanager
def without_compiler() -> Iterator[None]:
    """Context in which torch's compiler is not loaded, if it is not loaded yet, but imports from it succeed.

    timm also marks functions of networks without feature maps as not to be compiled. These marks are left out.
    """
    if COMPILER in sys.modules:
        yield
        return
    stand_in, mark = PostponedModule(COMPILER), torch.compiler.disable
    sys.modules[COMPILER] = stand_in
    torch.compiler.disable = unmarked  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = mark
        if sys.modules[COMPILER] is stand_in:
            del sys.modules[COMPILER]


def unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """Like `torch.compiler.disable`, as a decorator or with arguments, but return the function unchanged."""
    return unmarked if function is None else function


with without_compiler():
    import timm  # noqa: F401 · and torchvision with it
