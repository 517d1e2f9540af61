"""`cdetr push`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.parameters import GROUP, TorchSource, argument, option
from conditional_detr.cli.printing import print_next, print_note, print_text, print_written

DRY_RUN_FOLDER = Path("hub")


def push(
    source: TorchSource,
    repo: Annotated[str, argument("Name on the Hub: OWNER/NAME, such as me/cells.")],
    /,
    *,
    data_name: Annotated[
        str | None, option("Data", "Name of the data set, for the card.", "NAME", "name of the data folder of the run")
    ] = None,
    data_url: Annotated[str | None, option("Data", "Page of the data set, for the card.", "URL", "none")] = None,
    data_licence: Annotated[
        str | None, option("Data", "Licence of the data set, for the card, such as cc-by-4.0.", "ID", "not stated")
    ] = None,
    licence: Annotated[
        str | None,
        option("Model", "Licence of the weights, such as apache-2.0. other: one that the Hub has no id for.", "ID", "unknown"),
    ] = None,
    private: Annotated[
        bool, Parameter(help="Make the model private. Fails if it exists and is public.", group=GROUP["Access"], negative="")
    ] = False,
    dry_run: Annotated[
        bool,
        Parameter(
            help="Upload nothing: write the files to --output, to read and change the card.", group=GROUP["Output"], negative=""
        ),
    ] = False,
    output: Annotated[
        Path | None,
        option("Output", "Folder for the uploaded files.", "DIR", f"{DRY_RUN_FOLDER} with --dry-run, else not kept"),
    ] = None,
) -> None:
    """Push a model to the Hugging Face Hub, with a card that is made from its training run.

    The token is HF_TOKEN, or that of `hf auth login`.
    """
    from conditional_detr.sharing.facts import Statements
    from conditional_detr.sharing.push import push as run_push
    from conditional_detr.sharing.push import write_folder

    stated = Statements(licence, data_name, data_url, data_licence)
    if dry_run:
        written = write_folder(source, repo, stated, output or DRY_RUN_FOLDER)
        _print_notes(written.notes)
        print_written(*written.files)
        print_next(
            "upload these files, with the card as it is then", "cdetr", "push", written.folder, repo, *(["--private"] * private)
        )
        return
    written, uploaded = run_push(source, repo, stated, private, output)
    _print_notes([*written.notes, *uploaded.notes])
    print_text(f"Pushed {source} to {uploaded.url}", "bold")
    print_next("use it", "cdetr", "predict", repo, "IMAGES")


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        print_note(note)
