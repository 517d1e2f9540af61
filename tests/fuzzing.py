"""What the fuzz tests share. `make soak` asks for many more examples."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))


def fuzzed(share: float = 1.0) -> settings:
    """The settings of a test; one whose examples take long asks for a share of them."""
    return settings(
        max_examples=int(share * EXAMPLES), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


odd_numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.integers(0, 3), st.none(), st.booleans(), st.text(max_size=4),
    st.sampled_from(["1", 1.0, float("nan"), float("inf"), 1e308, -0.0, [], {}]),
)  # fmt: skip
damages = st.tuples(st.sampled_from(["change", "cut", "insert", "remove"]), st.floats(0, 1), st.binary(min_size=1, max_size=8))


def damaged(whole: bytes, faults: list[tuple[str, float, bytes]]) -> bytes:
    """A file after some accidents, each a kind, a place in [0, 1] and bytes."""
    for kind, share, new in faults:
        at = int(share * len(whole))
        if kind == "cut":
            whole = whole[:at]
        else:
            rest = whole[at:] if kind == "insert" else whole[at + len(new) :]
            whole = whole[:at] + (b"" if kind == "remove" else new) + rest
    return whole
