"""Find the file that a name in an annotation file means, if it is spelled otherwise on disk."""

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
ENCODINGS = ("gb18030", "cp932", "cp949", "cp1252", "cp437")  # of file names on disk that are not UTF-8
ZIPPED = ("utf-8", "gb18030", "cp932")  # of names that an unpacker took for cp437


class FileLookup:
    """Looks for images below the folder of a data set.

    A name that is not there as it is written is looked for from the folder of the data set, without its leading folders, in
    another Unicode form, in another case and in another encoding. The file that agrees with the most folders of the name is
    meant. Files of another split are not taken unless the name says so.

    Parameters
    ----------
    images : folder that the names are relative to
    root : folder of the data set; nothing outside these two is found
    split : name of the split

    Attributes
    ----------
    respelled : for each name that was found under another spelling, its file
    several : for each name that fits several files, these files
    """

    def __init__(self, images: Path, root: Path, split: str) -> None:
        self.images, self.root, self.split = images, root, split
        self.respelled: dict[str, Path] = {}
        self.several: dict[str, list[Path]] = {}

    def path_of(self, name: str) -> Path:
        """The file that a name means; if there is none or more than one, the name below the folder of the images."""
        written = self.images / name
        if "\0" in name or _exists(written) or name in self.several:
            return written
        slashed = self.images / name.replace("\\", "/")  # as written on Windows
        if _exists(slashed):
            return slashed
        is_foreign = Path(name).is_absolute() or DRIVE.match(name)
        if not is_foreign and not is_inside(slashed, self.root):
            return written
        matches = self._matches(name)
        if len(matches) > 1:
            self.several[name] = matches
        if len(matches) != 1:
            return written
        self.respelled[name] = matches[0]
        return matches[0]

    def summary(self) -> tuple[str, str]:
        """One sentence about all names that were found under another spelling, and what is done about them."""
        name, path = next(iter(self.respelled.items()))
        count = len(self.respelled)
        names, files = ("1 image name is", "1 file") if count == 1 else (f"{count} image names are", f"{count} files")
        text = f"{names} spelled differently from the file on disk, e.g. {name!r} for {shown(path)}"
        return text, f"nothing is changed; {files} with another spelling {'is' if count == 1 else 'are'} read"

    def _matches(self, name: str) -> list[Path]:
        plain = DRIVE.sub("", name.replace("\\", "/")).lstrip("/")
        direct = self.images / plain
        if _exists(direct) and self._is_own(direct):
            return [direct]
        for spelling in spellings(plain):
            parts = PurePosixPath(spelling).parts
            if parts and (found := self._agreeing(parts)):
                return found
        return []

    def _agreeing(self, parts: tuple[str, ...]) -> list[Path]:
        """The files that agree with the most trailing parts of a name; of these, those in the same case, or of the split."""
        wanted = [folded(part) for part in parts]
        agreed = {path: _agreement(wanted, path) for path in self._by_name.get(wanted[-1], ())}
        agreed = {
            path: count for path, count in agreed.items() if self._is_own(path) and not self._is_of_another_split(path, count)
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

    def _is_own(self, path: Path) -> bool:
        """Whether a file lies in the data set, also after links are resolved."""
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in (self.root, self.images))

    def _is_of_another_split(self, path: Path, agreed: int) -> bool:
        if path.is_relative_to(self.images) or not path.is_relative_to(self.root):
            return False
        folders = path.relative_to(self.root).parts[:-agreed]
        named = {usual_split(folder) for folder in folders} - {None}
        return bool(named) and usual_split(self.split) not in named


def spellings(name: str) -> Iterator[str]:
    """The ways in which a name may be spelled on disk, the most likely first."""
    yield name
    if "%" in name:
        yield unquote(name)
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


def _encoded(text: str, encoding: str) -> bytes | None:
    try:
        return text.encode(encoding)
    except UnicodeError:
        return None


def shown(path: Path) -> str:
    """A path that can be printed and written, also if its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """A part of a path without case, in one Unicode form."""
    return _composed(_composed(text).casefold())


def _agreement(wanted: list[str], path: Path, form: Callable[[str], str] = folded) -> int:
    """How many trailing parts of a path agree with those that are wanted."""
    count = 0
    for part, own in zip(reversed(wanted), reversed(path.parts), strict=False):
        if part != form(own):
            break
        count += 1
    return count


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
