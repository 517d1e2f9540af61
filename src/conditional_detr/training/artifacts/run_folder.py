"""The run folder: files of a run, and the state that it is resumed from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import nn

from conditional_detr.config.messages import build
from conditional_detr.config.options import MAY_DIFFER, MAY_DIFFER_TEXT
from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import flat, read_toml, to_toml
from conditional_detr.errors import RunError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.storage.atomic import atomic_folder, backup_of, recover
from conditional_detr.storage.json import read_json_object
from conditional_detr.storage.run_files import BEST_FIGURES, CONFIG, FINGERPRINT, METRICS, PREDICTIONS, REPORT
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.weights import native

LOCK, PATIENCE = ".lock", 10.0  # file name, and seconds to wait for the lock
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
MAY_DIFFER_IN_CONFIG = {"output", *MAY_DIFFER, *(f"training.{name}" for name in MAY_DIFFER)}


class RunFolder:
    """Reads and writes the files of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best, self.last = self.path / "best", self.path / "last"

    @property
    def has_begun(self) -> bool:
        """Whether there is a saved state to resume from. After a kill it may be in the backup folder of `last/`."""
        return any((folder / STATE).is_file() for folder in (backup_of(self.last), self.last))

    def check(self, config: RunConfig, resume: bool) -> bool:
        """Check that a run may use this folder. Nothing is written.

        Returns
        -------
        whether there is a saved state to resume from

        Raises
        ------
        RunError : the folder is not empty and `resume` is false, or the settings differ from those that the run started with
        """
        begun = self.has_begun
        if not resume and self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()):
            advice = "Add --resume to continue the run, or give" if begun else "Give"
            raise RunError(f"{self.path} is not empty. {advice} another folder (--output)")
        if begun:
            self._check_same(config)
        return begun

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context manager that locks the folder, so that no other run writes to it.

        The operating system releases the lock when the process ends, even if it is killed. A lock file that is left over does
        not block anything. The loader processes hold the lock too. If their parent is killed, they end within a few seconds,
        so locking waits for up to 10 seconds. A folder that was created here and stayed empty is removed at the end.

        Raises
        ------
        RunError : another process holds the lock, or the folder cannot be created
        """
        if self.path.is_file():
            raise RunError(f"{self.path} is a file: a run needs a folder (--output)")
        was_there = self.path.exists()
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            text = f"another process is training in {self.path}: wait until it has ended, or give another --output"
            raise RunError(text) from None
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            with suppress(OSError):  # before the release, so that the file cannot already belong to another run
                (self.path / LOCK).unlink()
            lock.release()
            if not was_there:
                with suppress(OSError):  # fails if the run has written files, which is fine
                    self.path.rmdir()

    def create(self, config: RunConfig, fingerprint: dict[str, Any]) -> None:
        """Create the folder if needed; write the settings and the fingerprint. Results of a shorter run are deleted."""
        self._write(CONFIG, to_toml(config))
        self._write(FINGERPRINT, json.dumps(fingerprint, indent=1))
        for name in (BEST_FIGURES, PREDICTIONS, REPORT):
            (self.path / name).unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        """Replace a text file atomically."""
        new = self.path / f".{name}.new"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            new.write_text(text, encoding="utf-8")
            new.replace(self.path / name)
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be written: {error.strerror or error}") from None

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the run so far; empty if it has none."""
        file = self.path / FINGERPRINT
        return read_json_object(file, RunError) if file.is_file() else {}

    def config(self) -> RunConfig:
        """Read the settings that the run started with."""
        return build(RunConfig, read_toml(self.path / CONFIG), str(self.path / CONFIG))

    def _check_same(self, config: RunConfig) -> None:
        before = self.config()
        old, new = flat(before.model_dump()), flat(config.model_dump())
        differ = [k for k in sorted(old | new) if k not in MAY_DIFFER_IN_CONFIG and old.get(k) != new.get(k)]
        if differ:
            changes = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differ[:3])
            raise RunError(
                f"{self.path} was started with other settings: {changes}. A resumed run keeps its settings; only "
                f"{MAY_DIFFER_TEXT} may differ"
            )

    def save_best(self, model: DetectionModel) -> None:
        """Save the model as `best/`, replacing the previous one."""
        with atomic_folder(self.best) as new:
            native.write(model, new)

    def save_last(
        self, model: DetectionModel, beside: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: TrainerState
    ) -> None:
        """Save everything that is needed to resume the run exactly, and `metrics.jsonl`. The old state is replaced atomically.

        Parameters
        ----------
        model : the model
        beside : other modules to save, by name
        optimizer : the optimiser, whose state is saved
        state : progress of the run
        """
        with atomic_folder(self.last) as new:
            native.write(model, new)
            tensors = {
                f"{i}.{key}": value.contiguous()
                for i, slots in optimizer.state_dict()["state"].items()
                for key, value in slots.items()
            }
            for name, module in beside.items():
                tensors |= {f"{name}.{key}": value.contiguous() for key, value in module.state_dict().items()}
            save_file(tensors, new / OPTIMIZER)
            (new / STATE).write_text(json.dumps(vars(state)), encoding="utf-8")
        self._write(METRICS, "".join(json.dumps(row) + "\n" for row in state.history))

    def last_model(self) -> DetectionModel:
        """Load the model of the last saved state."""
        recover(self.last)
        return native.read(self.last).build()

    def load_last(self, beside: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> TrainerState:
        """Restore the other modules and the optimiser, in place, from the last saved state.

        Returns
        -------
        progress of the run

        Raises
        ------
        RunError : the saved state is damaged
        """
        try:
            content = json.loads((self.last / STATE).read_bytes())
            state = TrainerState(**{**content, **{key: tuple(content[key]) for key in ("best", "evaluations")}})
            tensors = load_file(self.last / OPTIMIZER)
            for name, module in beside.items():
                module.load_state_dict({key: tensors.pop(f"{name}.{key}") for key in module.state_dict()})
            load_optimizer(optimizer, tensors)
        except Exception as error:  # a damaged file can make the readers raise any error
            raise RunError(f"{self.last} is damaged: {str(error)[:200]}. Start a new run in another folder") from None
        return state


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Restore the state tensors of an optimiser, in place.

    Parameters
    ----------
    optimizer : the optimiser to restore
    tensors : state tensors, named "<index of the parameter>.<name of the state>"
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        i, key = name.split(".", 1)
        parameter = parameters[int(i)]
        # The fused AdamW iterates over raw memory, so its averages need the same layout as the parameter (channels last).
        same_layout = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        state.setdefault(int(i), {})[key] = same_layout
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
