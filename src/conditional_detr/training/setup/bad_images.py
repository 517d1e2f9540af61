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
    lost : for each split those that its index is already without
    """

    def __init__(self, strict: bool, max_bad: float, say: Callable[[str], None], lost: dict[str, int]) -> None:
        self.strict, self.max_bad, self.say, self.lost = strict, max_bad, say, lost
        self.seen: dict[str, dict[str, str]] = {}

    def tell(self, split: str, path: str, reason: str, pictures: int) -> None:
        """A picture of a split, which had so many to begin with, cannot be used.

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
        bad, pictures = len(seen) + self.lost.get(split, 0), pictures + self.lost.get(split, 0)
        if bad > self.max_bad * pictures:
            raise DataError(
                f"{bad} pictures of {split} cannot be used, more than {self.max_bad:.0%} of {pictures} (--max-bad): "
                "`cdetr doctor` names them all, with --fix it writes a copy without them"
            )

    def met(self, split: str) -> list[tuple[str, str]]:
        """The pictures of a split that were met so far, and why each cannot be used."""
        return list(self.seen.get(split, {}).items())
