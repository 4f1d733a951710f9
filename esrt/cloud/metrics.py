"""What the server counts, for Prometheus. Nothing here names a user, a language or a text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("esrt_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "esrt_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["route"],
            registry=registry,
            buckets=(0.005, 0.02, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32),
        )
        self.frame_bytes = Counter("esrt_frame_bytes", "Bytes of the frames received.", registry=registry)
        self.tokens = Counter("esrt_tokens", "Tokens decoded for answers.", registry=registry)
        self.abandoned = Counter("esrt_abandoned", "Requests whose client left before the answer.", registry=registry)
        self.cache_bytes = Gauge(
            "esrt_cache_bytes", "Bytes of the features that this server keeps, in memory or on disk.", registry=registry
        )
        self.cache_refused = Counter("esrt_cache_refused", "Frames that could not be kept.", registry=registry)
        self.load = Gauge("esrt_engine_load", "Requests that wait or are being decoded.", registry=registry)

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self._registry)
