"""The emulated link, and a clip whose link is cut half way."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from esrt.bench.ugsd.link import RETRANSMISSION_SECONDS, Conditions, Link
from esrt.decoding.drafter import Drafter
from esrt.decoding.speech import Speculative
from esrt.decoding.ugsd import Settings
from esrt.edge.client import Client
from esrt.wire.verification import Verdict, VerificationRequest
from tests.cloud.conftest import Server, frame_bytes


def link_to(server: Server, conditions: Conditions) -> Link:
    return Link("127.0.0.1", urlsplit(server.url).port or 0, conditions)


@pytest.mark.parametrize(
    ("conditions", "least"),
    [
        (Conditions(round_trip=0.2), 0.4),  # one for the connection, one for the question
        (Conditions(bandwidth=20_000), 0.4),  # a body of 8,000 bytes
        (Conditions(loss=1 - 1e-12), RETRANSMISSION_SECONDS),
    ],
)
def test_a_link_takes_its_time(server: Server, conditions: Conditions, least: float) -> None:
    if conditions.loss > 0.5:  # every packet would be lost forever: count what one loss costs
        link = Link("127.0.0.1", 1, Conditions(loss=0.5), seed=1)
        assert max(link._way() for _ in range(50)) >= least
        link._loop.close()
        return
    with link_to(server, conditions) as link, httpx.Client(base_url=link.url) as http:
        began = time.perf_counter()
        assert http.post("/v1/verifications", content=b" " * 8000).status_code == 400
        assert time.perf_counter() - began >= least
        assert link.bytes_up > 8000 and link.bytes_down > 100


def test_what_comes_through_is_what_was_sent(server: Server) -> None:
    conditions = Conditions(0.02, 0.05, 0.1, 4e6)
    with link_to(server, conditions) as link, httpx.Client(base_url=link.url) as http:
        assert http.get("/v1/edge/edge.onnx").content == server.edge


def test_a_link_cut_in_a_clip_leaves_the_draft_standing(server: Server, make_drafter: Callable[..., Drafter]) -> None:
    """A real connection, cut after the third check; the next clip asks again."""
    link = link_to(server, Conditions(0.002))

    checks: list[VerificationRequest] = []

    class Cutting(Client):
        def verify(self, frame: bytes, request: VerificationRequest) -> Verdict:
            checks.append(request)
            if len(checks) == 4:
                link.cut()
            return super().verify(frame, request)

    with link, Cutting(link.url, patience=0.2) as client:
        speculative = Speculative(make_drafter(server.service, by=0.01), client, Settings(0.0, 3, block=3))
        found = speculative.translate(frame_bytes(12), ["deu", "fra"])
        assert found.drafting is not None
        assert found.drafting.cut == "cloud_unreachable"
        assert 0 < found.drafting.local < found.drafting.written
        assert found.transcript and len(checks) == 4  # nothing more was asked
        speculative.translate(frame_bytes(12), ["deu"])
        assert len(checks) == 5
