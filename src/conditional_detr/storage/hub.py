"""Download files from the Hugging Face Hub, and find out whether it can be reached.

The Hub is contacted only if the user names a repository on it. If it is unreachable, an error is raised within seconds.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from conditional_detr.errors import UnavailableError

TIMEOUT_SECONDS = 5.0


def fetch(repo: str, files: list[str], revision: str | None = None) -> list[Path]:
    """Return local paths of files of a Hub repository. Files that are not in the cache are downloaded.

    Raises
    ------
    UnavailableError : offline, access denied, or file not found. The message gives the reason
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return [Path(hf_hub_download(repo, file, revision=revision, local_files_only=True)) for file in files]
    except (LocalEntryNotFoundError, ValueError, OSError):
        pass
    if reason := out_of_reach():
        raise UnavailableError(f"{repo} is not in the local cache and the Hub is unreachable ({reason})")
    try:
        return [Path(hf_hub_download(repo, file, revision=revision)) for file in files]
    except Exception as error:  # the client raises many kinds of errors: access denied, not found, interrupted
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UnavailableError(f"{repo} cannot be downloaded from the Hub: {lines[0][:200]}") from None


def fetch_if_there(repo: str, file: str, revision: str | None = None) -> Path | None:
    """Return the local path of one file of a Hub repository, or None if the repository has no such file.

    Also returns None if the file is not in the cache and the Hub is unreachable.

    Raises
    ------
    UnavailableError : the file exists but cannot be downloaded
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        pass
    if out_of_reach():  # offline, only cached files can be found
        return None
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise UnavailableError(f"{file} of {repo} cannot be downloaded from the Hub: {type(error).__name__}") from None


def is_cached(repo: str, file: str) -> bool:
    """Whether a file of a Hub repository has been downloaded. Needs no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repo, file), str)
    except HFValidationError:
        return False


def out_of_reach() -> str | None:
    """Return the reason why the Hub is unreachable, or None. The client of the Hub would retry for most of a minute."""
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
