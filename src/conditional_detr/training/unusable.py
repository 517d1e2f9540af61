"""Pictures that a run does without: each named once, and too many of them stop it."""

from collections.abc import Callable

from conditional_detr.errors import DataError


class UnusablePictures:
    """What was met so far.

    Parameters
    ----------
    strict : stop at the first
    max_bad : the share of a split's pictures that is too many
    say : where they are named
    """

    def __init__(self, strict: bool, max_bad: float, say: Callable[[str], None]) -> None:
        self.strict, self.max_bad, self.say = strict, max_bad, say
        self.seen: dict[str, dict[str, str]] = {}

    def tell(self, split: str, path: str, reason: str, pictures: int) -> None:
        """A picture of a split of so many cannot be used.

        Raises
        ------
        DataError : it is one too many
        """
        seen = self.seen.setdefault(split, {})
        if path in seen:
            return
        seen[path] = reason
        if self.strict:
            raise DataError(f"{reason} (--strict)")
        self.say(f"left out: {reason}")
        if len(seen) > self.max_bad * pictures:
            raise DataError(
                f"{len(seen)} pictures of {split} cannot be used, more than {self.max_bad:.0%} of {pictures} (--max-bad): "
                "`cdetr doctor` names them all"
            )

    def met(self, split: str) -> list[tuple[str, str]]:
        """The pictures of a split that were met so far, and why each cannot be used."""
        return list(self.seen.get(split, {}).items())
