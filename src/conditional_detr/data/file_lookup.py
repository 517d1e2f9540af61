"""Find the image file for a name in an annotation file, also if its name on disk is spelled differently."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from conditional_detr.data.splits.location import is_inside
from conditional_detr.data.splits.names import usual_split
from conditional_detr.images.file_types import files_below, is_image_name

DRIVE = re.compile(r"^[A-Za-z]:")
PREFIX = re.compile(r"^(?=\d*[a-f])[0-9a-f]{8}-(?=.)")  # of images that were uploaded to Label Studio; no date
ENCODINGS = ("gb18030", "cp932", "cp949", "cp1252", "cp437")  # encodings of file names on disk that are not UTF-8
ZIPPED = ("utf-8", "gb18030", "cp932")  # encodings of names in an archive that were decoded as cp437


class FileLookup:
    """Looks for image files below the folder of a data set.

    If there is no file at the path as written, these spellings are tried: relative to the folder of the data set, without the
    leading folders, in another Unicode form, in another case and in another encoding; without the query of a URL and without
    the prefix that Label Studio adds; last, with another suffix. Among several files, the one that agrees with the most folders
    of the name is chosen. Files of another split are used only if the name contains that split.

    Parameters
    ----------
    images : folder that the names are relative to
    root : folder of the data set. Files outside `images` and `root` are not found
    split : name of the split

    Attributes
    ----------
    respelled : name → its file, for names that were found under another spelling
    ambiguous : name → the files, for names that match several files
    """

    def __init__(self, images: Path, root: Path, split: str) -> None:
        self.images, self.root, self.split = images, root, split
        self.respelled: dict[str, Path] = {}
        self.ambiguous: dict[str, list[Path]] = {}

    def path_of(self, name: str) -> Path:
        """Return the file for a name. If no file or more than one matches, return the path as written."""
        written = self.images / name
        if "\0" in name or exists(written) or name in self.ambiguous:
            return written
        slashed = self.images / name.replace("\\", "/")  # as written on Windows
        if exists(slashed):
            return slashed
        is_foreign = Path(name).is_absolute() or DRIVE.match(name)
        if not is_foreign and not is_inside(slashed, self.root):
            return written
        matches = self._matches(name)
        if len(matches) > 1:
            self.ambiguous[name] = matches
        if len(matches) != 1:
            return written
        self.respelled[name] = matches[0]
        return matches[0]

    def summary(self) -> tuple[str, str]:
        """Return the message and the fix of the finding about names that were found under another spelling."""
        name, path = next(iter(self.respelled.items()))
        count = len(self.respelled)
        names, files = ("1 image name is", "1 file") if count == 1 else (f"{count} image names are", f"{count} files")
        text = f"{names} spelled differently from the file on disk, e.g. {name!r} for {printable_path(path)}"
        return text, f"nothing is changed; {files} with another spelling {'is' if count == 1 else 'are'} read"

    def _matches(self, name: str) -> list[Path]:
        plain = DRIVE.sub("", name.replace("\\", "/")).lstrip("/")
        direct = self.images / plain
        if exists(direct) and self._is_in_data_set(direct):
            return [direct]
        for spelling in spellings(plain):
            parts = PurePosixPath(spelling).parts
            if parts and (found := self._agreeing(parts)):
                return found
        for spelling in spellings(plain):
            parts = PurePosixPath(spelling).parts
            if parts and (found := self._of_another_suffix(parts)):
                return found
        return []

    def _of_another_suffix(self, parts: tuple[str, ...]) -> list[Path]:
        """Return the files with the name of an image and another suffix, for images that were converted."""
        stem = stem_of(parts[-1])
        suffixes = sorted({path.suffix for path in self._by_stem.get(folded(stem), ())})
        found = [path for suffix in suffixes for path in self._agreeing((*parts[:-1], stem + suffix))]
        return [path for path in found if path.is_relative_to(self.images)]  # elsewhere it may be a mask

    def _agreeing(self, parts: tuple[str, ...]) -> list[Path]:
        """Return the files that agree with the most trailing parts of a name. The same case and split are preferred."""
        wanted = [folded(part) for part in parts]
        agreed = {path: _agreement(wanted, path) for path in self._by_name.get(wanted[-1], ())}
        agreed = {
            path: count
            for path, count in agreed.items()
            if self._is_in_data_set(path) and not self._is_of_another_split(path, count)
        }
        found = [path for path, count in agreed.items() if count == max(agreed.values())]
        same_case = [path for path in found if _agreement(list(map(_composed, parts)), path, _composed) == agreed[path]]
        found = same_case or found
        return [path for path in found if path.is_relative_to(self.images)] or found

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        folders = [self.root] if self.images.is_relative_to(self.root) else [self.root, self.images]
        for path in dict.fromkeys(path for folder in folders for path in files_below(folder) if is_image_name(path)):
            found.setdefault(folded(path.name), []).append(path)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in (path for paths in self._by_name.values() for path in paths):
            found.setdefault(folded(path.stem), []).append(path)
        return found

    def _is_in_data_set(self, path: Path) -> bool:
        """Whether a file lies in the data set after links are resolved."""
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in (self.root, self.images))

    def _is_of_another_split(self, path: Path, agreed: int) -> bool:
        base = next((folder for folder in (self.images, self.root) if path.is_relative_to(folder)), None)
        if base is None:
            return False
        folders = path.relative_to(base).parts[:-agreed]
        named = {usual_split(folder) for folder in folders} - {None}
        return bool(named) and usual_split(self.split) not in named


def spellings(name: str) -> Iterator[str]:
    """Possible spellings of a name on disk, the most likely first."""
    yield name
    if "%" in name:
        yield unquote(name)
    if "?" in name:
        yield unquote(name.partition("?")[0])
    folder, _, last = name.rpartition("/")
    if PREFIX.match(last):
        yield f"{folder}/{PREFIX.sub('', last)}"
    if name.isascii():
        return
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, name)
        for encoding in ENCODINGS:
            if (data := _encoded(text, encoding)) is not None:
                yield os.fsdecode(data)
        for encoding in ZIPPED:
            if (data := _encoded(text, encoding)) is not None:
                yield data.decode("cp437")


def stem_of(name: str) -> str:
    """Return a file name without the suffix of an image. Other suffixes belong to the name."""
    return name[: -len(Path(name).suffix)] if is_image_name(Path(name)) else name


def _encoded(text: str, encoding: str) -> bytes | None:
    try:
        return text.encode(encoding)
    except UnicodeError:
        return None


def printable_path(path: Path) -> str:
    """Return a path as text that can be printed. Bytes that are not UTF-8 are replaced by �."""
    return os.fsencode(path).decode("utf-8", "replace")


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Fold the case of a part of a path, and normalise its Unicode form, for comparison."""
    return _composed(_composed(text).casefold())


def _agreement(wanted: list[str], path: Path, form: Callable[[str], str] = folded) -> int:
    """Number of trailing parts of a path that agree with the wanted ones."""
    count = 0
    for part, own in zip(reversed(wanted), reversed(path.parts), strict=False):
        if part != form(own):
            break
        count += 1
    return count


def exists(path: Path) -> bool:
    """Return whether a path exists. False for one that may not be looked at, or is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
