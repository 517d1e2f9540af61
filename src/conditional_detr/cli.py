"""The command line: one function a verb. Heavy imports wait until a verb needs them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from conditional_detr.command_line import normalised, parse_error
from conditional_detr.console import note_untrained, print_metrics, write_json
from conditional_detr.errors import ConditionalDETRError, ConfigError

app = App(
    name="cdetr",
    help="Conditional DETR: train, evaluate, predict, explain. `cdetr VERB --help` tells a verb's options.",
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
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False, negative="")] = None,
) -> None:
    """Train a detector on a COCO folder with the splits train and valid.

    Parameters
    ----------
    data
        COCO folder: SPLIT/_annotations.coco.json, or annotations/instances_SPLIT.json.
    model
        A model name (default conditional-detr-tiny), or a trained model to go on from: run, checkpoint or
        Hugging Face folder, .pth, Hub id.
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
        Run folder, checkpoint folder, Hugging Face folder, .pth, model name or Hub id.
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
        Run folder, checkpoint folder, Hugging Face folder, .pth, model name or Hub id.
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
def explain(
    source: str,
    image: str,
    /,
    *,
    conf: float = 0.3,
    device: str = "auto",
    threads: int = 0,
    output: Path = Path("explanation"),
) -> None:
    """Show where each detection's query looked: cross-attention by head and layer, as pictures and arrays.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, Hugging Face folder, .pth, model name or Hub id.
    image
        One file or URL.
    conf
        Lowest score of a detection that is explained.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for what is written.
    """
    if Path(image).is_dir() or "*" in image:
        raise ConfigError(f"explain takes one picture, not {image}; predict takes folders and patterns")
    if output.is_file():
        raise ConfigError(f"{output} is a file: --output wants a folder")
    from conditional_detr.attention_maps import explain as run_explanation
    from conditional_detr.device import set_threads
    from conditional_detr.preprocessing import decode

    rgb = decode(image).permute(1, 2, 0).numpy()
    note_untrained(source)
    set_threads(threads)
    explanations = run_explanation(source, rgb, conf, device)
    if not explanations:
        print(f"nothing was found with a score of {conf} or more: a lower --conf explains what the model is less sure of")
        return
    from conditional_detr.attention_pictures import write_explanations

    print(f"{len(explanations)} detections with a score of {conf} or more, best first")
    for found, file in zip(explanations, write_explanations(rgb, explanations, output), strict=True):
        x0, y0, x1, y1 = found.box
        print(f"{found.class_name} {found.score:.2f} at x {x0:.0f}–{x1:.0f}, y {y0:.0f}–{y1:.0f} px → {file}", flush=True)
    print(f"beside each: all layers (-layers.png) and the maps as arrays (.npz), in {output}")


@app.command
def info(source: str, /) -> None:
    """Tell what a model is: classes, size, parameters, FLOPs.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, Hugging Face folder, .pth, model name or Hub id.
    """
    from conditional_detr.inference.describe import describe

    for name, value in describe(source).items():
        print(f"{name:<14} {value}")


VERBS: dict[tuple[str, ...], Callable[..., None]] = {
    ("demo",): demo,
    ("data", "digits"): digits,
    ("train",): train,
    ("eval",): evaluate,
    ("predict",): predict,
    ("explain",): explain,
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
