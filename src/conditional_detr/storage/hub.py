"""The Hugging Face Hub, asked only where the user named something on it, and with an answer within seconds if it is away."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from conditional_detr.errors import UnavailableError

TIMEOUT_SECONDS = 5.0


def fetch(repo: str, files: list[str], revision: str | None = None) -> list[Path]:
    """Files of a Hub repository as local paths, from the cache if they are there, else downloaded.

    Raises
    ------
    UnavailableError : offline, refused or not there; says which
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return [Path(hf_hub_download(repo, file, revision=revision, local_files_only=True)) for file in files]
    except (LocalEntryNotFoundError, ValueError, OSError):
        pass
    if reason := _out_of_reach():
        raise UnavailableError(f"{repo} is not in the local cache and the Hub is out of reach ({reason})")
    try:
        return [Path(hf_hub_download(repo, file, revision=revision)) for file in files]
    except Exception as error:  # the Hub's client has many: refused, not found, gated, interrupted
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UnavailableError(f"{repo} cannot be had from the Hub: {lines[0][:200]}") from None


def fetch_if_there(repo: str, file: str, revision: str | None = None) -> Path | None:
    """One file of a Hub repository as a local path, or None where the repository has no such file.

    Raises
    ------
    UnavailableError : it is there and cannot be had
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        pass
    if _out_of_reach():  # what was fetched before is all that is known of it
        return None
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise UnavailableError(f"{file} of {repo} cannot be had from the Hub: {type(error).__name__}") from None


def _out_of_reach() -> str | None:
    """Why the Hub cannot be asked, or None. Its client would retry for most of a minute before it said so."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return None
    url = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), timeout=TIMEOUT_SECONDS).close()
    except OSError as error:
        return f"no connection to {url.hostname}: {error.strerror or error}"
    return None
