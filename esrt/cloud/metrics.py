"""What the server counts, for Prometheus: docs/metrics.md lists it. Nothing here names a user, a language or a text.

A tenant is the name of a key, which the operator has chosen; with more keys than MOST_TENANTS the later ones share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from esrt.cloud.security import ANYONE

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.02, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST_TENANTS = 100
OTHERS = "other"
READERS = (ANYONE, "prometheus")
"""The tenants that see what others are counted: whoever may ask a server without keys, and the key for Prometheus."""


class Metrics:
    """The counts of one application. `collectors`: what its service and engine measure themselves."""

    def __init__(self, collectors: Iterable[Collector] = ()) -> None:
        registry = self.registry = CollectorRegistry()
        for collector in collectors:
            registry.register(collector)
        self.requests = Counter("esrt_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.tenant_requests = Counter(
            "esrt_tenant_requests", "Requests answered, of each key.", ["tenant", "status"], registry=registry
        )
        self.seconds = Histogram(
            "esrt_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.frame_bytes = Counter("esrt_frame_bytes", "Bytes of the frames received.", ["tenant"], registry=registry)
        self.tokens = Counter("esrt_tokens", "Tokens decoded for answers.", ["tenant"], registry=registry)
        self.abandoned = Counter("esrt_abandoned", "Requests whose client left before the answer.", registry=registry)
        self.cache_lookups = Counter(
            "esrt_cache_lookups", "Features asked for by their id: hit or miss.", ["result"], registry=registry
        )
        self.cache_bytes = Gauge(
            "esrt_cache_bytes", "Bytes of the features that this server keeps, in memory or on disk.", registry=registry
        )
        self.cache_refused = Counter("esrt_cache_refused", "Frames that could not be kept.", registry=registry)
        self.queue = Gauge("esrt_queue_requests", "Translations that wait or are decoded.", registry=registry)
        self.queue_limit = Gauge(
            "esrt_queue_limit_requests", "Translations that may wait or be decoded at once.", registry=registry
        )
        self.queue_ratio = Gauge(
            "esrt_queue_ratio", "Share of the room for requests or for their tokens that is taken.", registry=registry
        )
        self.load = Gauge(
            "esrt_engine_load", "Sequences that wait or are being decoded: one for each target.", registry=registry
        )
        self.ready = Gauge("esrt_ready", "1 while /readyz says that the server is ready, else 0.", registry=registry)
        self._tenants: set[str] = set()

    def tenant(self, name: str) -> str:
        """The label of a tenant: its name, or OTHERS where MOST_TENANTS have been seen before it."""
        if len(self._tenants) < MOST_TENANTS:
            self._tenants.add(name)
        return name if name in self._tenants else OTHERS

    def text(self, reader: str) -> bytes:
        """The exposition format of Prometheus: these counts, the process' own, and those of vLLM where it runs.

        Counts of other tenants are shown to the READERS alone.
        """
        own = self.registry if reader in READERS else _Own(self.registry, self.tenant(reader))
        return generate_latest(own) + generate_latest(REGISTRY)


class _Own(Collector):
    """What `registry` collects, without the counts of tenants other than `tenant`."""

    def __init__(self, registry: CollectorRegistry, tenant: str) -> None:
        self._registry, self._tenant = registry, tenant

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [s for s in family.samples if s.labels.get("tenant", self._tenant) == self._tenant]
            yield family


# What is measured where it happens, each made by its owner and registered by the application.


def first_token() -> Histogram:
    """A service's: from a request's whole frame to the first token of its transcript."""
    return Histogram(
        "esrt_first_token_seconds", "Seconds from a whole frame to its first token.", registry=None, buckets=SECONDS
    )


def engine_queue() -> Histogram:
    """An engine's: how long each sequence waited before it was begun."""
    return Histogram(
        "esrt_engine_queue_seconds", "Seconds that a sequence waited to be begun.", registry=None, buckets=SECONDS
    )


def engine_batch() -> Histogram:
    """An engine's: sequences in each step."""
    return Histogram(
        "esrt_engine_batch_sequences", "Sequences decoded together in a step.", registry=None, buckets=SEQUENCES
    )
