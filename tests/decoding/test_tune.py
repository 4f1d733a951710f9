"""The gamma that fits a budget, and the calibrated gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esrt.decoding.drafter import Drafter
from esrt.decoding.gates import Calibrated, Guess, Largest, entropy, fit, guess
from esrt.decoding.speech import Speculative
from esrt.decoding.tune import Point, calibrate, measure, tune
from esrt.decoding.ugsd import Settings
from esrt.edge.client import Client
from esrt.errors import UsageError
from esrt.wire.schemas import Drafting
from tests.cloud.conftest import Server, frame_bytes


def test_what_a_guess_says() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    found = guess(logits, np.array([7, 8, 9]))
    assert found.token == 8
    assert found.first == pytest.approx(0.6) and found.second == pytest.approx(0.3)
    assert found.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.1, 0.6, 0.3)))
    sure = guess(np.array([5.0, -np.inf, -np.inf], np.float32))
    assert (sure.token, sure.entropy, sure.first, sure.second) == (0, 0.0, 1.0, 0.0)
    even = guess(np.zeros(262_144, np.float32))
    assert even.entropy == pytest.approx(math.log(262_144))


def test_a_budget_is_kept_with_the_smallest_gamma_found() -> None:
    """A made-up cost that falls with gamma; the search sees a few of 100 doubts only."""
    asked = []

    def run(gamma: float) -> Point:
        asked.append(gamma)
        share = 0 if math.isinf(gamma) else max(0, 100 - int(gamma))
        return Point(gamma, 1, Drafting(drafted=100, escalated=share), 1.0, [])

    points = tune(run, [float(doubt) for doubt in range(101)], lambda point: point.escalated <= 0.1)
    assert len(asked) <= 7 and [point.gamma for point in points] == sorted(asked)
    best = next(point for point in points if point.escalated <= 0.1)
    assert 90 <= best.gamma <= 92
    assert points[-1].gamma == math.inf and points[-1].escalated == 0
    none = tune(run, [1.0], lambda point: False)
    assert none[-1].gamma == math.inf


def test_real_clips_at_two_gammas(server: Server, make_drafter: Callable[..., Drafter]) -> None:
    drafter, frames = make_drafter(server.service), [frame_bytes(seed) for seed in (12, 13)]

    def at(gamma: float) -> Point:
        with Client(server.url) as client:
            return measure(Speculative(drafter, client, Settings(gamma, 1)), gamma, frames, ["deu"])

    everything, nothing = at(0.0), at(math.inf)
    assert everything.escalated == 1 and nothing.escalated == nothing.bytes == 0
    assert everything.bytes > len(frames[0]) and everything.latency > 0
    assert everything.drafting.escalated >= len(everything.checked) > 10
    with Client("http://127.0.0.1:9", patience=0.1) as nobody, pytest.raises(UsageError) as cut:
        measure(Speculative(drafter, nobody, Settings(0.0)), 0.0, frames, ["deu"])
    assert cut.value.code == "link_cut"


def test_the_calibrated_gate_learns_when_the_cloud_refuses(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = [Guess(1, doubt, math.exp(-doubt), 0.0) for doubt in rng.uniform(0, 5, 2000)]
    refused = [bool(rng.random() < 1 / (1 + math.exp(-2 * (token.entropy - 2.5)))) for token in tokens]
    gate = calibrate(list(zip(tokens, refused, strict=True)))
    for doubt in (1.0, 2.5, 4.0):
        wanted = 1 / (1 + math.exp(-2 * (doubt - 2.5)))
        assert gate(Guess(1, doubt, math.exp(-doubt), 0.0)) == pytest.approx(wanted, abs=0.08)
    gate.save(tmp_path / "gate.json")
    assert Calibrated.load(tmp_path / "gate.json") == gate
    block = [tokens[0], tokens[1]]
    assert Largest(gate)(block) == max(gate(token) for token in block)
    assert Largest(entropy)(block) == max(token.entropy for token in block)
    with pytest.raises(UsageError):
        fit(tokens[:3], [True, True, True])
    (tmp_path / "gate.json").write_text('{"weights": [1, 2]}')
    with pytest.raises(UsageError, match="esrt ugsd tune"):
        Calibrated.load(tmp_path / "gate.json")
