"""`cdetr train`."""

from pathlib import Path
from typing import Any

from conditional_detr.cli.option_parameters import signature_of
from conditional_detr.config.options import TrainOptions, command_line_options
from conditional_detr.errors import ConfigError, plural


def train(**given: Any) -> None:
    """Train a detector on a data set. Writes checkpoints, metrics and a report to a run folder."""
    from conditional_detr.storage.run_files import CONFIG
    from conditional_detr.training.artifacts.run_folder import RunFolder
    from conditional_detr.training.setup.config_file import training_options
    from conditional_detr.training.trainer import train as run_training

    if "epochs" in given and "minutes" in given:
        raise ConfigError(
            "a run ends after a number of epochs or after a number of minutes: give --epochs or --minutes, not both"
        )
    config, assignments, resume = given.pop("config", None), given.pop("set", []), given.pop("resume", False)
    folds = given.pop("folds", 0)
    output = Path(given.get("output", TrainOptions.model_fields["output"].default))
    if resume and config is None and RunFolder(output).has_begun:
        config = output / CONFIG  # a run continues with its own settings; what is typed is compared with them
    values = training_options(config, assignments, given)
    if "data" not in values and resume:
        raise ConfigError(f"{output} contains no run to resume. Give its folder with --output, or --data to start a new run")
    if "data" not in values:
        raise ConfigError("train needs --data: the folder of a data set")
    if folds:
        _cross_validate(values, folds, resume)
    else:
        run_training(**values, resume=resume)


def _cross_validate(values: dict[str, Any], folds: int, resume: bool) -> None:
    from conditional_detr.cli.printing import print_text, print_written
    from conditional_detr.doctor.cross_validation import LABEL_ERRORS, LABEL_PAGE, METRICS, cross_validate
    from conditional_detr.storage.run_files import BEST_FIGURES, PREDICTIONS

    done = cross_validate(**values, folds=folds, resume=resume, say=lambda text: print_text(text, "bold"))
    for name in METRICS:
        if (found := done.mean(name)) is not None:
            mean, low, high = found
            print_text(f"{name}: mean of {folds} folds {mean:.3f} (95 % interval {low:.3f} to {high:.3f})")
    print_text(
        f"{plural(len(done.errors), 'likely label error')}, the most suspicious first: {done.folder / LABEL_PAGE}", "bold"
    )
    print_written(*(done.folder / name for name in (BEST_FIGURES, PREDICTIONS, LABEL_ERRORS, LABEL_PAGE)))


train.__signature__ = signature_of(command_line_options())  # type: ignore[attr-defined]
