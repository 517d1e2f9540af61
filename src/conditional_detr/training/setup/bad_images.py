"""Images that a run does without: each named once, and too many of them stop it."""

from collections.abc import Callable

from conditional_detr.errors import DataError


class BadImages:
    """What was met so far.

    Parameters
    ----------
    strict : stop at the first
    max_bad : the share of a split's images that is too many
    say : where they are named
    missing : for each split those that its index is already without
    """

    def __init__(self, strict: bool, max_bad: float, say: Callable[[str], None], missing: dict[str, int]) -> None:
        self.strict, self.max_bad, self.say, self.missing = strict, max_bad, say, missing
        self.found: dict[str, dict[str, str]] = {}

    def add(self, split: str, path: str, reason: str, images: int) -> None:
        """An image of a split, which had so many to begin with, cannot be used.

        Raises
        ------
        DataError : it is one too many
        """
        found = self.found.setdefault(split, {})
        if path in found:
            return
        found[path] = reason
        if self.strict:
            raise DataError(f"{reason} (--strict)")
        self.say(f"left out: {reason}")
        bad, images = len(found) + self.missing.get(split, 0), images + self.missing.get(split, 0)
        if bad > self.max_bad * images:
            raise DataError(
                f"{bad} images of {split} cannot be used, more than {self.max_bad:.0%} of {images} (--max-bad): "
                "`cdetr doctor` names them all, with --fix it writes a copy without them"
            )

    def met(self, split: str) -> list[tuple[str, str]]:
        """The images of a split that were met so far, and why each cannot be used."""
        return list(self.found.get(split, {}).items())
