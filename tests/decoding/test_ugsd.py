"""The edge loop against the cloud's own greedy decoding, on random models."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3ForCausalLM

from esrt.cloud.service import Service
from esrt.decoding.drafter import Drafter
from esrt.decoding.gates import Guess, Largest, PipeSD, margin, probability
from esrt.decoding.speech import Speculative
from esrt.decoding.ugsd import Settings, Tally, write
from esrt.edge.client import Client
from esrt.errors import CloudError, ModelError, UsageError
from esrt.wire.schemas import Drafting, TranslationRequest, TranslationResponse
from esrt.wire.verification import Verdict
from tests.cloud.conftest import Server, frame_bytes

TO = ["deu", "fra"]
Serve = Callable[..., AbstractContextManager[Server]]


def greedy(service: Service, frame: bytes) -> TranslationResponse:
    """What the cloud says by itself."""

    async def main() -> TranslationResponse:
        return await service.translate(service.read(frame), TranslationRequest("", TO))

    return asyncio.run(main())


@pytest.fixture(scope="module")
def server(serve: Serve, make_service: Callable[..., Service], talking: Gemma3ForCausalLM) -> object:
    with serve(make_service(talking, max_new_tokens=200)) as running:
        yield running


@pytest.mark.parametrize(("ahead", "block"), [(0, 5), (0, 1), (2, 5)])
def test_gamma_0_and_rank_1_is_the_clouds_own_text(
    server: Server, make_drafter: Callable[..., Drafter], ahead: int, block: int
) -> None:
    corrected = 0
    with Client(server.url) as client:
        for seed in range(4):
            drafter = make_drafter(server.service, seed, by=0.02 * (seed + 1))
            speculative = Speculative(drafter, client, Settings(0.0, 1, block, ahead))
            found = speculative.translate(frame_bytes(seed), TO)
            own = greedy(server.service, frame_bytes(seed))
            assert (found.source, found.transcript, found.translations) == (
                own.source,
                own.transcript,
                own.translations,
            )
            assert found.drafting is not None
            assert found.drafting.local == 0 and found.drafting.cut is None
            corrected += found.drafting.corrected
    assert corrected > 4  # else the drafter was the same model, and nothing was shown


def test_captions_are_drafted_like_any_text(
    server: Server, make_drafter: Callable[..., Drafter], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_bytes(5)

    async def own() -> TranslationResponse:
        request = TranslationRequest("", ["eng", "fra"], task="caption")
        return await server.service.translate(server.service.read(frame), request)

    wanted = asyncio.run(own())
    assert wanted.transcript == "" and wanted.source is None and any(wanted.translations.values())
    with Client(server.url) as client:
        speculative = Speculative(make_drafter(server.service, by=0.03), client, Settings(0.0, 1))
        found = speculative.translate(frame, ["eng", "fra"], task="caption")
        assert found.translations == wanted.translations
        assert client.translate(frame, ["eng", "fra"], task="caption").translations == wanted.translations
        # A model that must be told the language needs it for texts of what is said, not for how it is said.
        monkeypatch.setattr(server.service, "_branch", "srt")
        assert client.translate(frame, ["eng", "fra"], task="caption").translations == wanted.translations
        with pytest.raises(CloudError, match="which language"):
            client.translate(frame, ["eng"])


def test_gamma_inf_is_the_drafters_own_text_and_sends_nothing(
    server: Server, make_drafter: Callable[..., Drafter]
) -> None:
    drafter = make_drafter(server.service)
    with Client(server.url) as client:
        found = Speculative(drafter, client, Settings(math.inf)).translate(frame_bytes(3), TO)
        assert (client.bytes_sent, client.bytes_received) == (0, 0)
    alone = Speculative(drafter, None, Settings(0.0)).translate(frame_bytes(3), TO)
    assert (found.transcript, found.translations) == (alone.transcript, alone.translations)
    assert found.drafting is not None
    assert found.drafting.local == found.drafting.written > 0 and found.drafting.to_json()["local_share"] == 1


def test_a_transcript_that_ends_without_its_language_has_the_likeliest(
    server: Server, make_drafter: Callable[..., Drafter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esrt.decoding.speech.MAX_NEW_TOKENS", 3)
    drafter, named = make_drafter(server.service), set()
    for seed in range(6):
        found = Speculative(drafter, None, Settings(math.inf)).translate(frame_bytes(seed), [])
        ids: list[int] = []
        while len(ids) < 3:
            ids.append(drafter.next(ids).token)
        likely = drafter._after(ids)
        assert found.source == max(drafter.text.tags, key=lambda code: float(likely[drafter.text.tags[code]]))
        named.add(found.source)
    assert len(named) > 1


def test_between_the_two_some_is_checked_and_the_frame_is_sent_once(
    server: Server, make_drafter: Callable[..., Drafter]
) -> None:
    drafter, total = make_drafter(server.service), Drafting()
    for seed in range(12, 18):
        frame = frame_bytes(seed)
        with Client(server.url) as client:
            speculative = Speculative(drafter, client, Settings(5.1, 3))
            first, second = speculative.translate(frame, TO), speculative.translate(frame, TO)
        assert first.drafting is not None and second.drafting is not None
        assert first.translations == second.translations
        if first.drafting.escalated:
            assert len(frame) < first.drafting.bytes_sent - second.drafting.bytes_sent < len(frame) + 400
        total += first.drafting
    assert 0 < total.escalated < total.drafted and 0 < total.local < total.written


class Tokens:
    """A drafter that says what `rule` says, with the doubt that `doubt` gives."""

    def __init__(self, rule: Callable[[Sequence[int]], int], doubt: Callable[[Sequence[int]], float]) -> None:
        self._rule, self._doubt = rule, doubt

    def next(self, ids: Sequence[int]) -> Guess:
        doubt = self._doubt(ids)
        return Guess(self._rule(ids), doubt, 1 - min(doubt, 1.0), 0.0)


class Oracle:
    """A cloud that accepts what `rule` says, and counts."""

    def __init__(self, rule: Callable[[Sequence[int]], int]) -> None:
        self._rule = rule
        self.asked: list[tuple[int, int]] = []

    def verify(self, prefix: Sequence[int], block: Sequence[int], rank: int) -> Verdict:
        self.asked.append((len(prefix), len(block)))
        for place, token in enumerate(block):
            right = self._rule([*prefix, *block[:place]])
            if token != right:
                return Verdict(place, right, False)
        return Verdict(len(block), None, False)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(0, 1), st.integers(1, 9), st.integers(0, 3), st.integers(1, 60), st.floats(0, 3)
)
def test_every_token_is_the_clouds_or_one_the_drafter_was_sure_of(
    seed: int, wrong: float, block: int, ahead: int, length: int, gamma: float
) -> None:
    """Whatever the drafter gets wrong and doubts: tallies add up, and what was checked is right."""

    def noise(ids: Sequence[int], salt: int) -> np.random.Generator:
        return np.random.default_rng([seed, salt, *ids])

    def cloud(ids: Sequence[int]) -> int:
        return int(noise(ids, 1).integers(2, 90))

    def draft(ids: Sequence[int]) -> int:
        return cloud(ids) if noise(ids, 2).random() >= wrong else 1

    def doubt(ids: Sequence[int]) -> float:
        return float(noise(ids, 3).random() * 3)

    oracle, tally = Oracle(cloud), Tally()
    ids = write(
        [7], Tokens(draft, doubt), oracle, Settings(gamma, 1, block, ahead), lambda ids: len(ids) >= length, tally
    )
    assert len(ids) == tally.written == length
    assert tally.round_trips == len(oracle.asked) and tally.escalated == sum(size for _, size in oracle.asked)
    assert tally.drafted >= tally.escalated and 0 <= tally.local <= length
    unchecked_wrong = sum(ids[place] != cloud([7, *ids[:place]]) for place in range(length))
    assert unchecked_wrong <= tally.local
    if gamma == 0:
        assert tally.local == 0 and unchecked_wrong == 0
    if tally.local == 0 or wrong == 0:
        assert unchecked_wrong == 0


def test_blocks_adapt_as_in_the_paper() -> None:
    """5 first, 7 after two accepted in a row, 3 after a correction, then 5 again."""
    oracle = Oracle(lambda ids: 9 if len(ids) == 20 else 5)
    write([7], Tokens(lambda ids: 5, lambda ids: 1.0), oracle, Settings(0.5, 1), lambda ids: len(ids) >= 40, Tally())
    assert oracle.asked == [(1, 5), (6, 5), (11, 7), (18, 7), (21, 3), (24, 5), (29, 7), (36, 5)]


def test_single_tokens_stay_single_and_pairs_have_three_at_most() -> None:
    """With blocks of 1 nothing is sent but the token in doubt."""
    for block, lengths in ((1, {1}), (2, {1, 2, 3})):
        oracle = Oracle(lambda ids: 9 if len(ids) % 20 == 0 else 5)
        drafter = Tokens(lambda ids: 5, lambda ids: float(len(ids) % 3 == 0))
        write([7], drafter, oracle, Settings(0.5, 1, block), lambda ids: len(ids) >= 60, Tally())
        assert {size for _, size in oracle.asked} == lengths


def test_a_cut_link_leaves_the_draft_standing_and_says_so() -> None:
    class Cut(Oracle):
        def verify(self, prefix: Sequence[int], block: Sequence[int], rank: int) -> Verdict:
            if len(self.asked) == 2:
                raise CloudError("cloud_unreachable", "Gone.", 0)
            return super().verify(prefix, block, rank)

    for ahead in (0, 2):
        oracle, tally = Cut(lambda ids: 5), Tally()
        drafter = Tokens(lambda ids: 5, lambda ids: 1.0)
        ids = write([7], drafter, oracle, Settings(0.5, 1, ahead=ahead), lambda ids: len(ids) >= 40, tally)
        assert ids == [5] * 40
        assert tally.cut == "cloud_unreachable" and len(oracle.asked) == 2
        assert tally.local == 40 - sum(size for _, size in oracle.asked)


def test_a_refusal_that_is_no_cut_is_an_error() -> None:
    class Mismatch(Oracle):
        def verify(self, prefix: Sequence[int], block: Sequence[int], rank: int) -> Verdict:
            raise CloudError("pair_mismatch", "Another model.", 409)

    with pytest.raises(CloudError, match="Another model"):
        write([], Tokens(lambda i: 5, lambda i: 1.0), Mismatch(lambda i: 5), Settings(0), lambda i: len(i) > 9, Tally())


def test_a_pair_that_does_not_fit_is_refused(server: Server, make_drafter: Callable[..., Drafter]) -> None:
    drafter = make_drafter(server.service)
    drafter.tokenizer = "0" * 16
    with Client(server.url) as client:
        assert client.models()[0].tokenizer not in (None, drafter.tokenizer)
        with pytest.raises(CloudError) as refused:
            Speculative(drafter, client, Settings(0.0, 1)).translate(frame_bytes(1), TO)
        assert (refused.value.code, refused.value.status) == ("pair_mismatch", 409)
    drafter.fingerprint = bytes(8)
    with pytest.raises(ModelError) as other:
        Speculative(drafter, None, Settings()).translate(frame_bytes(1), TO)
    assert other.value.code == "pair_mismatch"


@pytest.mark.parametrize(
    "wrong", [{"gamma": -1.0}, {"gamma": math.nan}, {"rank": 0}, {"block": 0}, {"ahead": -1}, {"ahead": 10}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_other_gates() -> None:
    sure, unsure = Guess(1, 0.1, 0.9, 0.05), Guess(2, 2.0, 0.5, 0.4)
    assert Largest(probability)([sure, unsure]) == 0.5
    assert Largest(margin)([sure, unsure]) == pytest.approx(0.9)
    pipe = PipeSD(product=0.7, single=0.3)
    assert [pipe([sure]), pipe([sure]), pipe([sure]), pipe([sure])] == [0, 0, 0, 1]  # 0.9^4 < 0.7
    pipe.reset(True)
    assert [pipe([sure]), pipe([unsure])] == [0, 1]  # 0.9 * 0.5 < 0.7
