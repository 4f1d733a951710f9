"""What is counted, by whom it may be read, and that table, alerts and dashboard name nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from transformers import Gemma3ForCausalLM

from esrt.cloud.engines.base import Sampling
from esrt.cloud.metrics import MOST_TENANTS, OTHERS, Metrics, engine_batch, engine_queue, first_token
from esrt.cloud.security import ANYONE
from esrt.cloud.service import Service
from tests.cloud.asking import KEYS, Serve, client, soon

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text(encoding="utf-8"))["groups"]

WORDS = {"changes", "count", "histogram_quantile", "max", "min", "rate", "sum", "topk"}
"""Of PromQL, as far as the queries use it."""


@pytest.fixture(scope="module")
def http(serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM) -> Iterator[httpx.Client]:
    with serve(make_service(talking), KEYS) as server, client(server) as http:
        yield http


def counts(http: httpx.Client) -> dict[str, float]:
    """Sample -> value."""
    lines = http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def own() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every metric of ours, under the name that queries use -> its kind and labels."""
    registry = Metrics([first_token(), engine_queue(), engine_batch()]).registry
    found = {}
    for collector in registry._collector_to_names:
        (family,) = collector.describe() if hasattr(collector, "describe") else collector.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, tuple(getattr(collector, "_labelnames", ())))
    return found


def samples() -> Set[str]:
    """All names that a query may use: of ours, and of the process."""
    ours = {
        f"{name}{suffix}"
        for name, (kind, _) in own().items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    return ours | {sample.name for family in REGISTRY.collect() for sample in family.samples}


def test_the_page_has_every_metric() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(esrt_\w+)` \| (\w+) \| (.*?) ?\| ", page, re.MULTILINE)
    assert {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == own()
    named = {rule["alert"] for group in ALERTS for rule in group["rules"]}
    assert set(re.findall(r"^\| `(Esrt\w+)` ", page, re.MULTILINE)) == named


def test_queries_name_what_there_is() -> None:
    rules = [rule["expr"] for group in ALERTS for rule in group["rules"]]
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    known = samples() | {"up"}
    for query in (*rules, *panels):
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)", "", query)
        names = set(re.findall(r"[a-z]\w+", bare)) - WORDS
        assert names and names <= known, f"{names - known} in {query}"
        labels = set(re.findall(r"(\w+) *(?:=|!=|=~|!~) *\"", query))
        assert labels <= {"instance", "job", "route", "status", "result", "tenant"}, query
    used = {name for query in panels for name in own() if name in query}
    assert used == set(own()), "the dashboard shows every metric"


def test_the_dashboard_can_be_imported() -> None:
    """Grafana asks for unique ids, places inside its 24 columns that do not lie upon each other, and a title."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["title"] and not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) and DASHBOARD["title"] and DASHBOARD["uid"] and DASHBOARD["schemaVersion"] > 30


def test_a_translation_is_counted_everywhere(http: httpx.Client, frame_of: Any) -> None:
    frame, before = frame_of(4), counts(http)
    assert before["esrt_queue_limit_requests"] == 256 and before["esrt_ready"] == 1
    answer = http.post("/v1/translations?to=deu&to=fra", content=frame).json()
    http.post("/v1/translations", json={"features": answer["features"], "to": ["ita"]})
    http.post("/v1/translations", json={"features": "0" * 32, "to": ["ita"]})
    after = counts(http)

    def grew(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grew('esrt_requests_total{route="/v1/translations",status="200"}') == 2
    assert grew('esrt_requests_total{route="/v1/translations",status="404"}') == 1
    assert grew('esrt_tenant_requests_total{status="404",tenant="ann"}') == 1
    assert grew('esrt_request_seconds_count{route="/v1/translations"}') == 3
    assert grew("esrt_first_token_seconds_count") == 2
    assert grew("esrt_engine_queue_seconds_count") == 5, "two transcripts, three translations"
    assert 0 < grew("esrt_engine_batch_sequences_count") < grew('esrt_tokens_total{tenant="ann"}')
    assert grew('esrt_frame_bytes_total{tenant="ann"}') == len(frame)
    assert (grew('esrt_cache_lookups_total{result="hit"}'), grew('esrt_cache_lookups_total{result="miss"}')) == (1, 1)
    assert after["esrt_queue_requests"] == 0
    # The engine may still be in the step that ended the last text.
    assert soon(lambda: counts(http)["esrt_engine_load"] == 0)
    assert after["process_resident_memory_bytes"] > 1e6 and after["process_cpu_seconds_total"] > 0


def test_what_is_decoded_together_is_one_batch(
    make_service: Callable[..., Service], endless: Gemma3ForCausalLM
) -> None:
    async def decode() -> Service:
        service = make_service(endless, max_wait=1.0)
        rows = np.random.default_rng(1).standard_normal((4, service.engine.width)).astype(np.float32)

        async def one() -> int:
            return len([token async for token in service.engine.generate(rows, Sampling(30))])

        assert list(await asyncio.gather(one(), one())) == [30, 30]
        await service.engine.close()
        return service

    registry = Metrics(asyncio.run(decode()).collectors).registry
    assert registry.get_sample_value("esrt_engine_batch_sequences_count") == 29, "a prompt's own step is no batch"
    assert registry.get_sample_value("esrt_engine_batch_sequences_sum") == 58
    assert registry.get_sample_value("esrt_engine_queue_seconds_count") == 2


def test_a_stream_counts_its_tokens(http: httpx.Client, frame_of: Any) -> None:
    before = counts(http)
    text = http.post("/v1/translations?to=deu", content=frame_of(5), headers={"Accept": "text/event-stream"}).text
    (done,) = re.findall(r"^event: done\ndata: (.*)$", text, re.MULTILINE)
    name = 'esrt_tokens_total{tenant="ann"}'
    assert counts(http)[name] - before.get(name, 0) == json.loads(done)["usage"]["tokens"] > 0


def test_prometheus_can_read_it(http: httpx.Client) -> None:
    families = {family.name: family.type for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert families["esrt_requests"] == "counter" and families["esrt_request_seconds"] == "histogram"


def test_a_stranger_makes_no_tenant(http: httpx.Client) -> None:
    assert http.get("/metrics", headers={"Authorization": "Bearer mallory"}).status_code == 401
    assert http.get("/v1/mallory").status_code == 404
    found = http.get("/metrics").text
    assert "mallory" not in found and set(re.findall(r'tenant="(\w*)"', found)) == {"ann"}


def test_a_tenant_sees_its_own_counts_and_prometheus_all() -> None:
    metrics = Metrics()
    for name in ("ann", "bob", ANYONE):
        metrics.tokens.labels(metrics.tenant(name)).inc()

    def seen(reader: str) -> set[str]:
        return set(re.findall(r'esrt_tokens_total{tenant="(\w+)"}', metrics.text(reader).decode()))

    assert (seen("ann"), seen("carol")) == ({"ann"}, set())
    assert seen("prometheus") == seen(ANYONE) == {"ann", "bob", ANYONE}
    assert b"esrt_queue_requests " in metrics.text("ann"), "what is nobody's is everybody's"


def test_tenants_are_bounded() -> None:
    metrics = Metrics()
    labels = {metrics.tenant(f"key-{number}") for number in range(3 * MOST_TENANTS)}
    assert len(labels) == MOST_TENANTS + 1 and OTHERS in labels
    assert metrics.tenant("key-0") == "key-0" and metrics.tenant("key-299") == OTHERS
