"""This process among those that train together (`torchrun`, `accelerate launch`), or alone."""

import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from conditional_detr.device.choose import choose_device
from conditional_detr.errors import RunError

# What gloo and NCCL say of a process that does not answer any more.
LOST = re.compile(r"closed by peer|reset by peer|Broken pipe|Timed out|timed out|recvBytes|NCCL|unhandled system error", re.I)

# Environment variables in which a launcher says which process this is: torchrun and accelerate, Intel MPI and MPICH, Open MPI.
VARIABLES = {
    "rank": ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
    "world": ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"),
    "local_world": ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}


def launched(what: str) -> int | None:
    """This process's "rank", or how many there are in all ("world") or on this machine ("local_world"); None = not said."""
    values = [os.environ[name] for name in VARIABLES[what] if os.environ.get(name, "").isdecimal()]
    return int(values[0]) if values else None


class Distributed:
    """What the processes of one run have to agree on.

    Attributes
    ----------
    device : of this process
    rank, world : which one this is, and how many there are
    accelerator : accelerate's, where there are several; None alone
    """

    def __init__(self, device: str) -> None:
        self.device = choose_device(device)
        self.accelerator: Any = None
        self.rank, self.world = 0, 1
        if (launched("world") or 1) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")
            self.device = self.accelerator.device
            self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes

    def __enter__(self) -> "Distributed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After a fault the others may never come: they end with this process.
        if self.accelerator is not None and kind in (None, KeyboardInterrupt):
            self.accelerator.end_training()
        if self.accelerator is not None and isinstance(error, RuntimeError) and LOST.search(str(error)):
            raise RunError(
                "another process of this run is gone: the first fault is in its own output, or the system killed it (memory?). "
                "--resume goes on from what was saved last"
            ) from None

    @property
    def is_main(self) -> bool:
        """Whether this one speaks and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def gathered(self, rows: list[Any]) -> list[Any]:
        """Everyone's rows, in every process."""
        if self.accelerator is None:
            return rows
        from accelerate.utils import gather_object

        everyone: list[Any] = gather_object(rows)
        return everyone

    def mean(self, losses: Mapping[str, Tensor | float]) -> dict[str, float]:
        """The mean over all of them, as numbers."""
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in losses.values()])
        if self.accelerator is not None:
            values = self.accelerator.reduce(values, reduction="mean")
        return dict(zip(losses, values.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of them at least."""
        if self.accelerator is None:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.device), reduction="sum")
        return bool(total > 0)
