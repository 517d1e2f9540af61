"""A run folder: what a run leaves behind and what it goes on from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
from conditional_detr.storage.run_files import BEST_FIGURES, CONFIG, METRICS, REPORT
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.weights import native

LOCK, PATIENCE = ".lock", 10.0  # s
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
MAY_DIFFER_IN_CONFIG = {"output", *MAY_DIFFER, *(f"training.{name}" for name in MAY_DIFFER)}


class RunFolder:
    """Reads and writes a run's files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best, self.last = self.path / "best", self.path / "last"

    @property
    def has_begun(self) -> bool:
        """Whether there is a state to go on from; a kill may have left it beside its place."""
        return any((folder / STATE).is_file() for folder in (backup_of(self.last), self.last))

    def check(self, config: RunConfig, resume: bool) -> bool:
        """Whether there is a state to go on from; looks only.

        Raises
        ------
        RunError : the folder is not empty and `resume` was not asked for, or the settings are not those that the run began
            with
        """
        begun = self.has_begun
        if not resume and self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()):
            advice = "Add --resume to go on with it, or give" if begun else "Give"
            raise RunError(f"{self.path} is not empty. {advice} another folder (--output)")
        if begun:
            self._check_same(config)
        return begun

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it no other process trains into this folder.

        The system lets go of the lock when a process ends, however it ends: the file may stay and means nothing then. Processes
        that load images hold it too, and notice the end of their own within seconds: so long it is waited for. A folder in
        which nothing was written goes again.

        Raises
        ------
        RunError : another process holds it, or it cannot be made
        """
        if self.path.is_file():
            raise RunError(f"{self.path} is a file: a run needs a folder (--output)")
        was_there = self.path.exists()
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            text = f"another process is training into {self.path}: wait for its end, or give another --output"
            raise RunError(text) from None
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            with suppress(OSError):  # before it is released, so that nobody can have taken it meanwhile
                (self.path / LOCK).unlink()
            lock.release()
            if not was_there:
                with suppress(OSError):  # it is not empty: the run was made
                    self.path.rmdir()

    def create(self, config: RunConfig) -> None:
        """Make the folder, or take it over, and write down the settings. What told of a shorter run goes."""
        self._write(CONFIG, to_toml(config))
        for name in (BEST_FIGURES, REPORT):
            (self.path / name).unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        """Replace a text file in one go."""
        new = self.path / f".{name}.new"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            new.write_text(text, encoding="utf-8")
            new.replace(self.path / name)
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be written: {error.strerror or error}") from None

    def config(self) -> RunConfig:
        """The settings that the run began with."""
        return build(RunConfig, read_toml(self.path / CONFIG), str(self.path / CONFIG))

    def _check_same(self, config: RunConfig) -> None:
        before = self.config()
        old, new = flat(before.model_dump()), flat(config.model_dump())
        differ = [k for k in sorted(old | new) if k not in MAY_DIFFER_IN_CONFIG and old.get(k) != new.get(k)]
        if differ:
            changes = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differ[:3])
            raise RunError(
                f"{self.path} was begun with other settings: {changes}. A run goes on as it began; only "
                f"{MAY_DIFFER_TEXT} may differ"
            )

    def save_best(self, model: DetectionModel) -> None:
        """The model as it is now; whatever stood in `best/` makes room."""
        with atomic_folder(self.best) as new:
            native.write(model, new)

    def save_last(
        self, model: DetectionModel, beside: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: TrainerState
    ) -> None:
        """Everything that the run needs to go on as if nothing had been; the former is replaced only by a whole new one.

        `beside` is what learns beside the model, by names of its own.
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
        """The model as it was saved last."""
        recover(self.last)
        return native.read(self.last).build()

    def load_last(self, beside: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> TrainerState:
        """Put back as it was what learns beside the model, and the optimiser."""
        try:
            content = json.loads((self.last / STATE).read_bytes())
            state = TrainerState(**{**content, **{key: tuple(content[key]) for key in ("best", "evaluations")}})
            tensors = load_file(self.last / OPTIMIZER)
            for name, module in beside.items():
                module.load_state_dict({key: tensors.pop(f"{name}.{key}") for key in module.state_dict()})
            load_optimizer(optimizer, tensors)
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise RunError(f"{self.last} is damaged: {str(error)[:200]}. Begin anew in another folder") from None
        return state


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back an optimiser's tensors, named by parameter number and slot."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        i, key = name.split(".", 1)
        parameter = parameters[int(i)]
        # The fused AdamW walks through memory: its averages must lie there as the parameter does (channels last).
        same_layout = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        state.setdefault(int(i), {})[key] = same_layout
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
