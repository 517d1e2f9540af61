"""Push a model to the Hugging Face Hub: write a folder with the model and its card, and upload it."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

from conditional_detr.errors import CheckpointError, ConfigError, SourceError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.sharing.facts import Statements
from conditional_detr.sharing.licences import licence_id
from conditional_detr.sharing.model_card import model_card
from conditional_detr.sharing.run_facts import facts_of, run_of
from conditional_detr.sharing.upload import Uploaded, check_reachable, check_repo, upload
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.weights import huggingface
from conditional_detr.weights.discovery import load_detector
from conditional_detr.weights.recognise import DESCRIPTION, PREPROCESSOR, WEIGHTS, find_checkpoint
from conditional_detr.weights.save import FORMATS

CARD = "README.md"
FILES = {CARD, DESCRIPTION, WEIGHTS, PREPROCESSOR}
ADDRESS = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # ASCII without spaces, quotes, <, >, \, ^, ` and braces


class Written(NamedTuple):
    """A folder for the Hub: its path, its files, and remarks that its owner should read."""

    folder: Path
    files: list[Path]
    notes: list[str]


def checked(stated: Statements) -> Statements:
    """Check what the owner of a model says, and write licences as the Hub does.

    Raises
    ------
    ConfigError : a licence is not known to the Hub, or the address of the data set is no web address
    """
    url = stated.data_url
    if url is not None and not (ADDRESS.fullmatch(url) and urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc):
        raise ConfigError(f"--data-url must be a web address, such as https://example.org/cells, not {url[:120]!r}")
    licences = {"licence": "--licence", "data_licence": "--data-licence"}
    given = {name: value for name in licences if (value := getattr(stated, name)) is not None}
    return replace(stated, **{name: licence_id(value, licences[name]) for name, value in given.items()})


def push(
    source: str, repo: str, stated: Statements, private: bool = False, output: Path | None = None
) -> tuple[Written, Uploaded]:
    """Push a model and its card to the Hub.

    Parameters
    ----------
    source : see `load_model`; not a model name
    repo : Hub id, org/name; the repository is created if there is none
    stated : what the card says about licences and data
    private : whether the repository must be private
    output : folder that is written and uploaded; None = a temporary one

    Raises
    ------
    ConfigError, SourceError, CheckpointError, RunError : see `write_folder`
    UnavailableError : the Hub refuses, or cannot be reached
    """
    check_repo(repo)
    stated = checked(stated)
    check_reachable(repo)
    with TemporaryDirectory(prefix="cdetr-push-") as place:
        written = write_folder(source, repo, stated, Path(place) / "model" if output is None else output)
        return written, upload(written.folder, repo, private, "Push with conditional-detr")


def write_folder(source: str, repo: str, stated: Statements, folder: Path) -> Written:
    """Write what a push uploads: the model, in the format of transformers if that can hold it, and its card.

    If the source is a folder that has a card already, this card is used as it is.

    Parameters
    ----------
    source, repo, stated : see `push`
    folder : the folder to write. It must be new, empty, or the result of an earlier call, which is then replaced

    Raises
    ------
    ConfigError : the name of the repository or a statement is not valid, the source was pre-trained without labels, or the
        folder has other files
    SourceError : the source is not a trained model
    CheckpointError : the source is damaged or an export, or the folder cannot be written
    RunError : a file of the run folder is damaged
    """
    check_repo(repo)
    stated = checked(stated)
    path = find_checkpoint(source)
    if path is None:
        raise SourceError(f"{source} is a model name, not a trained model: train it first, and push its run folder")
    _check_folder(folder)
    model = load_detector(source)
    format, notes = _format_for(model)
    if card := _own_card(path):
        if given := [name for name, value in asdict(stated).items() if value is not None]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{card} is used as the card, so {options} would have no effect: change the card, or remove it")
        notes.append(f"{card} is used as the card, as it is")
        text = card.read_bytes()
    else:
        run = run_of(path)
        facts = facts_of(model, repo, format, stated, run)
        notes += _lacking(source, stated, run)
        text = model_card(facts).encode("utf-8", "replace")
    with atomic_folder(folder) as new:
        FORMATS[format][0](model, new)
        (new / CARD).write_bytes(text)
    return Written(folder, [folder / name for name in sorted(path.name for path in folder.iterdir())], notes)


def _format_for(model: DetectionModel) -> tuple[str, list[str]]:
    """The format for a model on the Hub, and a note if transformers cannot load it."""
    try:
        huggingface.check_can_be_written(model)
    except CheckpointError as error:
        found = re.search(r"cannot hold (.+?)(?:: |\. |$)", str(error))
        reason = found[1] if found else str(error)
        note = f"transformers cannot load this model ({reason}): its files have the native format, which conditional-detr loads"
        return "native", [note]
    return "huggingface", []


def _own_card(path: Path) -> Path | None:
    """The card that lies in the folder of a checkpoint."""
    return path / CARD if (path / CARD).is_file() else None


def _lacking(source: str, stated: Statements, run: Path | None) -> list[str]:
    """Notes about what a card does not say."""
    notes = []
    if run is None:
        notes.append(
            f"{source} is not the folder of a finished run, so the card has no metrics and says nothing about the training"
        )
    if stated.licence is None:
        notes.append(
            "no licence was given, so the card says that it is unknown, and others cannot use the model. "
            "Give one with --licence, such as --licence apache-2.0"
        )
    return notes


def _check_folder(folder: Path) -> None:
    if folder.is_dir() and (others := sorted({file.name for file in folder.iterdir()} - FILES)):
        raise ConfigError(f"{folder} has other files ({', '.join(others[:3])}): give a new or empty folder (--output)")
