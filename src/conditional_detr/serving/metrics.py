"""Metrics of a server in Prometheus' format."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
STAGES = ("read", "decode", "prepare", "wait", "model")


class Metrics:
    """Counters of a server. Each server has its own registry, so two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        more: Any = {"registry": self.registry}
        self.requests = Counter("cdetr_requests", "Requests by path and status.", ["path", "status"], **more)
        self.errors = Counter("cdetr_errors", "Requests that failed because of a fault in the server.", **more)
        self.images = Counter("cdetr_images", "Images that were run through the model.", **more)
        self.queue = Gauge("cdetr_queue_images", "Images that are decoded, waiting or in the model.", **more)
        self.bodies = Gauge("cdetr_body_bytes", "Bytes of the requests that are in memory.", **more)
        self.batches = Histogram("cdetr_batch_size", "Images in a batch.", buckets=BATCHES, **more)
        self.seconds = Histogram("cdetr_stage_seconds", "Time of each stage, seconds.", ["stage"], buckets=SECONDS, **more)
        self.request_seconds = Histogram(
            "cdetr_request_seconds", "Time of a request, seconds.", ["path"], buckets=SECONDS, **more
        )
        for stage in STAGES:
            self.seconds.labels(stage)  # shown as 0 before the first request

    def took(self, stage: str, seconds: float) -> None:
        """Record the time of a stage."""
        self.seconds.labels(stage).observe(seconds)

    def ran(self, images: int, seconds: float) -> None:
        """Record a batch."""
        self.images.inc(images)
        self.batches.observe(images)
        self.took("model", seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Record a request."""
        self.requests.labels(path, str(status)).inc()
        self.request_seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
