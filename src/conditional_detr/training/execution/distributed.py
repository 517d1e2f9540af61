"""Training with several processes (`torchrun`, `accelerate launch`). Everything here also works in a single process."""

import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from conditional_detr.device.choose import choose_device
from conditional_detr.errors import RunError

# Error messages of gloo and NCCL if another process no longer responds.
LOST = re.compile(r"closed by peer|reset by peer|Broken pipe|Timed out|timed out|recvBytes|NCCL|unhandled system error", re.I)

# Environment variables set by launchers: torchrun and accelerate, Intel MPI and MPICH, Open MPI.
VARIABLES = {
    "rank": ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"),
    "world": ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"),
    "local_world": ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}


def launched(what: str) -> int | None:
    """Read a value set by the launcher; None if it is not set.

    Parameters
    ----------
    what : "rank" of this process, number of all processes ("world") or of those on this machine ("local_world")
    """
    values = [os.environ[name] for name in VARIABLES[what] if os.environ.get(name, "").isdecimal()]
    return int(values[0]) if values else None


class Distributed:
    """Communication between the processes of one run. Used as a context manager.

    Attributes
    ----------
    device : device of this process
    rank, world : index of this process, and number of processes
    accelerator : the `accelerate.Accelerator`; None in a single process
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
        # After an error, do not wait for the other processes: they may never respond. They end when this process ends.
        if self.accelerator is not None and kind in (None, KeyboardInterrupt):
            self.accelerator.end_training()
        if self.accelerator is not None and isinstance(error, RuntimeError) and LOST.search(str(error)):
            raise RunError(
                "another process of this run has stopped. Its own output shows the error; without one, the system may have "
                "killed it for lack of memory. Continue from the last saved state with --resume"
            ) from None

    @property
    def is_main(self) -> bool:
        """Whether this process prints messages and writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def gathered(self, rows: list[Any]) -> list[Any]:
        """Collect the rows of all processes. Every process gets the complete list."""
        if self.accelerator is None:
            return rows
        from accelerate.utils import gather_object

        everyone: list[Any] = gather_object(rows)
        return everyone

    def mean(self, losses: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Mean of each value over all processes."""
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in losses.values()])
        if self.accelerator is not None:
            values = self.accelerator.reduce(values, reduction="mean")
        return dict(zip(losses, values.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in at least one process."""
        if self.accelerator is None:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.device), reduction="sum")
        return bool(total > 0)
