"""What a server accepts."""

from dataclasses import dataclass
from typing import NamedTuple

from conditional_detr.errors import ConfigError

# Limits → their options of `cdetr serve`
OPTIONS = {
    "upload_bytes": "--max-bytes", "pixels": "--max-pixels", "images": "--max-images", "queue": "--queue",
    "seconds": "--timeout", "batch": "--batch", "wait_ms": "--max-wait",
}  # fmt: skip
BODIES = 16  # the bodies of all requests together may be this many times as large as one of them


class Refused(Exception):
    """A request that is answered with a status and a sentence.

    Parameters
    ----------
    status : HTTP status
    detail : what is wrong, for the client
    retry_after : seconds after which the client may try again; None = trying again does not help
    closes : whether the connection is closed after the answer
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None, closes: bool = False) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after, self.closes = status, detail, retry_after, closes

    @property
    def headers(self) -> dict[str, str]:
        """Additional headers of the answer."""
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return retry | ({"Connection": "close"} if self.closes else {})


@dataclass(frozen=True)
class Limits:
    """Limits of a server. A request beyond one is answered with 4xx, or with 503 while the server is busy.

    Attributes
    ----------
    upload_bytes : size of a request, bytes
    pixels : pixels of an image; the frames of an animation count together
    images : images in a request
    queue : images that are decoded, waiting or in the model, in all requests together
    seconds : time of a request, from its first byte to its answer
    batch : largest batch size
    wait_ms : longest time that an image waits for others to share a batch, in ms
    """

    upload_bytes: int = 32_000_000
    pixels: int = 50_000_000
    images: int = 16
    queue: int = 64
    seconds: float = 30.0
    batch: int = 8
    wait_ms: float = 5.0

    def check(self) -> None:
        """Check that the server can work with these limits.

        Raises
        ------
        ConfigError : one is too small
        """
        for name, value in vars(self).items():
            least = 0 if name == "wait_ms" else 1 if isinstance(value, int) else 0.001
            if not least <= value < float("inf"):
                raise ConfigError(f"{OPTIONS[name]} must be at least {least:g}, not {value:g}")
        if self.queue < self.images:
            raise ConfigError(
                f"the queue must have room for the images of a request: --queue {self.queue} is less than "
                f"--max-images {self.images}"
            )

    @property
    def bodies_bytes(self) -> int:
        """Size of all requests in memory together, bytes."""
        return BODIES * self.upload_bytes


class Access(NamedTuple):
    """Who may use a server.

    Attributes
    ----------
    token : bearer token of all paths but health; "" = none
    hosts : accepted names in the header `Host`, without port; empty = all
    origins : accepted values of the header `Origin`, beside the server's own
    addresses : whether `Host` may also be an IP address
    """

    token: str = ""
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    addresses: bool = False
