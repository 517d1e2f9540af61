"""Upload a folder to the Hugging Face Hub."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from conditional_detr.errors import ConditionalDETRError, ConfigError, UnavailableError
from conditional_detr.inference.engines import first_line
from conditional_detr.storage.hub import out_of_reach
from conditional_detr.weights.recognise import is_hub_id

REMARKS = "Warnings while validating metadata"  # how the client begins its warnings about a card


class Uploaded(NamedTuple):
    """An upload: the address of the repository, and remarks of the Hub about the card."""

    url: str
    notes: list[str]


def check_repo(repo: str) -> None:
    """Check that a name is a valid Hub id, org/name, which `load_model` accepts later.

    Raises
    ------
    ConfigError : it is not
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = first_line(error)
    else:
        if is_hub_id(repo):
            return
        reason = "a name without an owner, or the name of a file" if "/" not in repo else "the name of a file"
    raise ConfigError(f"REPO must be the name of a model on the Hub, such as org/name, not {repo[:120]!r}: {reason}")


def check_reachable(repo: str) -> None:
    """Check that the Hub can be reached, before the work begins.

    Raises
    ------
    UnavailableError : it cannot
    """
    if reason := out_of_reach():
        raise UnavailableError(
            f"{repo} cannot be pushed, because the Hub is unreachable ({reason}). Use --dry-run to write the files only"
        )


def upload(folder: Path, repo: str, private: bool, message: str) -> Uploaded:
    """Upload all files of a folder in one commit. The repository is created if there is none.

    The token is the one that huggingface_hub finds: `HF_TOKEN`, or a login.

    Parameters
    ----------
    folder : folder without subfolders
    repo : Hub id
    private : whether the repository must be private
    message : message of the commit

    Raises
    ------
    ConfigError : the repository exists and is public, but must be private
    UnavailableError : the Hub refuses, or cannot be reached. The message gives the reason
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    api = HfApi(library_name="conditional-detr")
    with _quiet_client() as notes:
        try:
            api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not api.model_info(repo).private:
                raise ConfigError(
                    f"{repo} exists and is public, and --private does not change that: make it private on its page, or give "
                    "another name"
                )
            files = [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
            api.create_commit(repo, files, commit_message=message)
        except ConditionalDETRError:
            raise
        except Exception as error:  # the client raises many kinds of errors: refused, not found, interrupted
            reason = _reason(error, repo)
            if token := get_token():
                reason = reason.replace(token, "TOKEN")
            raise UnavailableError(f"{repo} cannot be pushed: {reason}") from None
    return Uploaded(f"{api.endpoint}/{repo}", notes)


def _reason(error: Exception, repo: str) -> str:
    """The reason of an error of the Hub, and what to do."""
    owner = repo.split("/")[0]
    known = {
        401: "the Hub does not know you. Run `hf auth login`, or set HF_TOKEN to a token with the permission to write",
        403: f"you may not write there. You need a token with the permission to write, and must be {owner} or a member of it",
        404: f"the Hub does not know {owner}. Check the name",
        409: "it was changed at the same time. Push again",
        413: "the files are larger than the Hub accepts",
        429: "the Hub received too many requests from you. Wait, and push again",
    }
    if isinstance(error, json.JSONDecodeError):
        return "the server does not answer as the Hub does"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return " ".join(str(error).split())[:300] or type(error).__name__
    return known.get(status) or f"the Hub answers with {status}: {getattr(error, 'server_message', None) or first_line(error)}"


@contextmanager
def _quiet_client() -> Iterator[list[str]]:
    """Context manager for calls of the Hub's client. Its remarks on a card are collected instead of printed.

    Its log shows errors only. It draws progress bars only in a terminal.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    notes: list[str] = []
    log = logging.getLogger("huggingface_hub")
    level, hides_bars = log.level, not (sys.stderr.isatty() or are_progress_bars_disabled())
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if hides_bars:
            disable_progress_bars()
        try:
            yield notes
        finally:
            log.setLevel(level)
            if hides_bars:
                enable_progress_bars()
    texts = [str(warning.message) for warning in caught]
    notes += [f"the Hub says: {' '.join(text.split())}" for text in texts if text.startswith(REMARKS)]
