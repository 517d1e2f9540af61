"""Images that cannot be used. A run continues without them and prints each one once; too many stop the run."""

from collections.abc import Callable

from conditional_detr.errors import DataError


class BadImages:
    """The unusable images found so far.

    Parameters
    ----------
    strict : raise an error at the first unusable image
    max_bad : maximum fraction of a split's images that may be unusable
    say : prints a line
    missing : number of images per split that were already left out when the index was read
    advice : what to do about too many
    """

    def __init__(self, strict: bool, max_bad: float, say: Callable[[str], None], missing: dict[str, int], advice: str) -> None:
        self.strict, self.max_bad, self.say, self.missing, self.advice = strict, max_bad, say, missing, advice
        self.found: dict[str, dict[str, str]] = {}

    def add(self, split: str, path: str, reason: str, images: int) -> None:
        """Register an image that cannot be used.

        Parameters
        ----------
        split : name of the split
        path : file of the image
        reason : complete message to print
        images : number of images in the split's index at the start of the run

        Raises
        ------
        DataError : too many images cannot be used; with `strict`, any image
        """
        found = self.found.setdefault(split, {})
        if path in found:
            return
        found[path] = reason
        if self.strict:
            raise DataError(f"{reason} (stopped by --strict)")
        self.say(f"left out: {reason}")
        bad, images = len(found) + self.missing.get(split, 0), images + self.missing.get(split, 0)
        if bad > self.max_bad * images:
            raise DataError(
                f"{bad} images of {split} cannot be used, more than {100 * self.max_bad:g}% of {images} (--max-bad). "
                f"{self.advice}"
            )

    def met(self, split: str) -> list[tuple[str, str]]:
        """Return the unusable images of a split found so far, as (path, reason)."""
        return list(self.found.get(split, {}).items())
