"""Random decisions."""

from collections.abc import Sequence

import torch


class Draws:
    """Draws random numbers from a generator on the CPU.

    Parameters
    ----------
    generator : None = torch's global generator
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    @classmethod
    def seeded(cls, seed: int) -> "Draws":
        """Draw from a generator of its own. It gives the same numbers as torch's global generator with this seed."""
        return cls(torch.Generator().manual_seed(seed))

    def uniform(self) -> float:
        """Random number in [0, 1)."""
        return float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform() < probability

    def between(self, low: int, high: int) -> int:
        """Random integer from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def pick(self, values: Sequence[int]) -> int:
        """Choose one of the values at random."""
        return values[self.between(0, len(values) - 1)]


GLOBAL = Draws()
