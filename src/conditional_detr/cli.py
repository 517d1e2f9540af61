"""The command line: one function a verb. Heavy imports wait until a verb needs them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from conditional_detr.command_line import normalised, parse_error
from conditional_detr.errors import ConditionalDETRError, ConfigError

app = App(
    name="cdetr",
    help="Conditional DETR: train, evaluate and predict. `cdetr VERB --help` tells a verb's options.",
    help_format="plaintext",
    version_flags=["--version"],
)
data_app = App(name="data", help="Make data sets.")
app.command(data_app)


@app.command
def demo(*, output: str = "demo") -> None:
    """Train on real handwritten digits, evaluate and predict: minutes, offline, nothing else needed.

    Parameters
    ----------
    output
        New folder for data, run, figures and pictures.
    """
    from conditional_detr.demo import demo as run_demo

    done = run_demo(output)
    minutes, seconds = divmod(round(done.seconds), 60)
    print_metrics(done.metrics)
    print(f"done in {minutes} min {seconds} s. Look at {done.folder}/predictions/ and {done.folder}/run/train_batch.jpg")


@data_app.command
def digits(folder: Path, /, *, train: int = 1500, valid: int = 300, size: int = 128, seed: int = 0) -> None:
    """Make the digits set: scenes of handwritten digits over photographs, as COCO folders.

    Parameters
    ----------
    folder
        Is made, with train/ and valid/ in it.
    train, valid
        Number of scenes.
    size
        Height and width of a scene, px.
    seed
        Same seed, same scenes.
    """
    from conditional_detr.data.digits import make_digits

    make_digits(folder, train, valid, size, seed)
    print(f"{train} + {valid} scenes of {size} x {size} px in {folder}")


@app.command
def train(
    *,
    data: str | None = None,
    model: str | None = None,
    output: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    imgsz: int | None = None,
    recipe: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    seed: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    patience: int | None = None,
    amp: str | None = None,
    pretrained_backbone: bool | None = None,
    config: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
) -> None:
    """Train a detector on a COCO folder with the splits train and valid.

    Parameters
    ----------
    data
        COCO folder: SPLIT/_annotations.coco.json, or annotations/instances_SPLIT.json.
    model
        A model name, or a run or checkpoint folder to go on from. Default conditional-detr-tiny.
    output
        Run folder, new or empty. Default runs/train.
    epochs
        Times that every picture is seen.
    batch
        Pictures an optimisation step, over all processes.
    lr
        Learning rate; the backbone's moves in proportion.
    imgsz
        Length of the shorter side after resizing, px.
    recipe
        paper or fast.
    device
        auto, cpu, cuda, cuda:1, mps.
    workers
        Processes that load pictures.
    threads
        Processor threads; 0 = as many as there are.
    seed
        Of weights, order and augmentation.
    resume
        Go on with the run in --output.
    patience
        Stop after so many epochs without a better AP; 0 = never.
    amp
        Precision of matrix products: auto, bf16, off.
    pretrained_backbone
        Start from ImageNet weights.
    config
        TOML file with any of these and of a run's config.toml.
    set_
        One setting, as in model.num_queries=50 or weight_decay=0.01; may be repeated.
    """
    from conditional_detr.training.options import training_options
    from conditional_detr.training.run import train as run_training

    given = {
        "data": data, "model": model, "output": output, "epochs": epochs, "batch": batch, "lr": lr, "imgsz": imgsz,
        "recipe": recipe, "device": device, "workers": workers, "threads": threads, "seed": seed, "patience": patience,
        "amp": amp, "pretrained_backbone": pretrained_backbone,
    }  # fmt: skip
    own = Path(output or "runs/train")
    if resume and config is None and (own / "last" / "state.json").is_file():
        config = own / "config.toml"  # a run goes on as it began; what is typed is compared with it
    values = training_options(config, set_ or [], {key: value for key, value in given.items() if value is not None})
    if "data" not in values:
        raise ConfigError("train needs --data: a COCO folder")
    run_training(**values, resume=resume)


@app.command(name="eval")
def evaluate(
    source: str,
    /,
    *,
    data: str,
    split: str = "valid",
    batch: int = 8,
    device: str = "auto",
    threads: int = 0,
    output: Path = Path("evaluation"),
) -> None:
    """Print COCO's twelve figures and AP per class, and write metrics.json.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, model name or Hub id.
    data
        COCO folder.
    split
        train, valid or test.
    batch
        Pictures a batch; moves no figure.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for metrics.json.
    """
    from conditional_detr.device import set_threads
    from conditional_detr.evaluation.coco import evaluate as run_evaluation

    note_untrained(source)
    set_threads(threads)
    metrics = run_evaluation(source, data, split, batch, device)
    print_metrics(metrics)
    write_json(output / "metrics.json", metrics.to_dict())
    print(f"→ {output / 'metrics.json'}")


@app.command
def predict(
    source: str,
    /,
    *images: str,
    conf: float = 0.3,
    batch: int = 8,
    device: str = "auto",
    threads: int = 0,
    output: Path = Path("predictions"),
) -> None:
    """Detect in pictures; write them with boxes, and predictions.json.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, model name or Hub id.
    images
        Files, folders, patterns or URLs.
    conf
        Lowest score that is kept.
    batch
        Pictures a batch; moves no result.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for what is written.
    """
    from conditional_detr.weights.source import find_checkpoint

    if not images:
        raise ConfigError("predict needs pictures: cdetr predict SOURCE IMAGES… (files, folders, patterns or URLs)")
    find_checkpoint(source)
    from conditional_detr.inference.predict import find_pictures
    from conditional_detr.inference.predict import predict as run_prediction

    pictures = find_pictures(images)
    from conditional_detr.device import set_threads
    from conditional_detr.inference.detector import Detector

    note_untrained(source)
    set_threads(threads)
    done = run_prediction(Detector(source, device=device), pictures, output, conf, batch)
    for sentence in done.unreadable:
        print(f"left out: {sentence}", file=sys.stderr)
    if done.unreadable:
        print(f"{len(done.unreadable)} of {len(pictures)} inputs could not be read", file=sys.stderr)
    if not done.read:
        raise ConditionalDETRError("none of the inputs could be read as a picture")
    hint = "" if done.rows else ". A lower --conf shows what it is less sure of"
    print(f"{len(done.rows)} objects at score {conf} or more in {done.read} pictures → {output}{hint}")


@app.command
def info(source: str, /) -> None:
    """Tell what a model is: classes, size, parameters, FLOPs.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, model name or Hub id.
    """
    from conditional_detr.inference.describe import describe

    for name, value in describe(source).items():
        print(f"{name:<14} {value}")


def note_untrained(source: str) -> None:
    """A model name is a network with a pretrained backbone, not a trained detector."""
    from conditional_detr.weights.source import find_checkpoint

    if find_checkpoint(source) is None:
        print(f"note: {source} is a model name: its decoder is not trained, so what it finds is noise", file=sys.stderr)


def write_json(file: Path, content: Any) -> None:
    import json

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from None


def print_metrics(metrics: Any) -> None:
    """The twelve figures and AP per class, as tables."""
    from rich.console import Console
    from rich.table import Table

    from conditional_detr.evaluation.coco import FIGURES

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    console = Console(highlight=False)
    for names in (FIGURES[:6], FIGURES[6:]):
        table = Table(*names, box=None, padding=(0, 2), header_style="bold")
        table.add_row(*(cell(getattr(metrics, name)) for name in names))
        console.print(table)
    classes = Table("class", "AP", box=None, padding=(0, 2), header_style="bold")
    for name, value in metrics.per_class.items():
        classes.add_row(name, cell(value))
    console.print(classes)


VERBS: dict[tuple[str, ...], Callable[..., None]] = {
    ("demo",): demo,
    ("data", "digits"): digits,
    ("train",): train,
    ("eval",): evaluate,
    ("predict",): predict,
    ("info",): info,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the input is wrong (one message on stderr), 1 a fault of ours."""
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        app(normalised(tokens, VERBS), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_refuse(parse_error(error)))
    except ConditionalDETRError as error:
        sys.exit(_refuse(str(error)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _refuse(message: str) -> int:
    print(f"cdetr: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
