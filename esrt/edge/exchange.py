"""The conversation with a cloud, without a socket: what to send or how long to wait, given what came back.

Each conversation is a generator. It yields a Request, and is sent the Answer or the Lost that came of it; or it yields
a Pause, and is sent None. `client` drives it over blocking sockets, `async_client` in an event loop.
"""

from __future__ import annotations

import email.utils
import itertools
import json
import random
import re
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, TypeVar

from esrt import languages
from esrt.errors import CloudError
from esrt.wire import frame
from esrt.wire.schemas import (
    ModelCard,
    Problem,
    TranslationRequest,
    TranslationResponse,
    check_features,
    models_from_json,
)
from esrt.wire.verification import Verdict, VerificationRequest

Value = TypeVar("Value")

BUSY = frozenset({408, 429, 502, 503, 504})
"""What the cloud may answer to the same request otherwise: a body that came too slowly, too much to do, a gateway."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
POLL_SECONDS = 0.5
ENGINE_TRIES = 3
"""Of a request whose decoding failed: most often another one in its batch was the cause, or there was no memory."""
REMEMBERED = 10_000
_FRAME_TYPE = "application/octet-stream"

Task: TypeAlias = Literal["translate", "transcribe", "caption"]


class Sink(Protocol):
    """Where a body of success goes that is too large for memory."""

    def headers(self) -> dict[str, str]:
        """What to ask for: all of it, or what is missing after an attempt that broke off."""
        ...

    def begin(self, status: int) -> None:
        """The body begins: with status 206 where an earlier attempt ended, else from the start."""
        ...

    def take(self, chunk: bytes) -> None:
        """The next bytes. Raises CloudError `bad_response` when there are more than there should be."""
        ...


@dataclass(frozen=True)
class Request:
    """What to send. `path` begins after the cloud's URL; `kind` is the body's media type, "" where there is none.

    The body of success goes into `sink`, if there is one.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    kind: str = ""
    sink: Sink | None = None


@dataclass(frozen=True)
class Pause:
    """Wait this long before the next step."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What the cloud said. Names of headers are in lower case; `body` is empty where it went into a sink."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Lost:
    """No answer came: the cloud was too slow (`late`), or the connection failed for this `reason`."""

    reason: str
    late: bool = False


Talk: TypeAlias = Generator[Request | Pause, Answer | Lost | None, Value]


@dataclass
class Peer:
    """One cloud, as a client knows it: where it is, whether it has ever answered, which features it holds.

    A cloud that has answered is asked again for `patience` seconds, long enough for it to start anew; one that never
    has is more likely a wrong address, and gets `first_patience`.
    """

    url: str
    patience: float = 60.0
    first_patience: float = 5.0
    answered: bool = False
    known: dict[str, None] = field(default_factory=dict)

    def remember(self, features: str) -> None:
        """The cloud holds these features now."""
        self.known[features] = None
        while len(self.known) > REMEMBERED:
            self.known.pop(next(iter(self.known)), None)


def ask(peer: Peer, request: Request) -> Talk[Answer]:
    """Send until there is an answer of success.

    Connections that fail and a cloud that is busy (BUSY) are tried again, with pauses that double and are never quite
    the same for two clients, nor shorter than the cloud's Retry-After; `engine_failed` ENGINE_TRIES times in all.
    Raises CloudError: `cloud_unreachable`, `cloud_timeout` and `deadline` (a slow cloud is not asked for the same
    twice), `unauthorized`, or the code of the cloud's problem.
    """
    failed_first: float | None = None
    engine_failed = 0
    for attempt in itertools.count():
        heard = yield request
        wait = 0.0
        if isinstance(heard, Answer):
            peer.answered = True
            if 200 <= heard.status < 300:
                return heard
            wait = _retry_after(heard)
            engine_failed += _code(heard) == "engine_failed"
        now = time.monotonic()
        failed_first = now if failed_first is None else failed_first
        pause = wait + random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 10))
        patience = peer.patience if peer.answered else min(peer.first_patience, peer.patience)
        if not _worth_another(heard) or engine_failed >= ENGINE_TRIES or now - failed_first + pause > patience:
            raise _error(peer, heard)
        yield Pause(pause)
    raise AssertionError("unreachable")


def translation(
    peer: Peer, data: bytes, to: Sequence[str], source: str | None, task: Task, beam: int
) -> Talk[TranslationResponse]:
    """Translate one frame: a new one is sent along, a known one is named, one that the cloud forgot is sent again.

    Raises UsageError `unknown_language`, FrameError where `data` is no frame, and CloudError as `ask` does.
    """
    targets = list(dict.fromkeys(languages.get(code).code for code in to))
    spoken = languages.get(source).code if source is not None else None
    what = TranslationRequest("", targets, spoken, task, beam)
    features = frame.read(data, cap=len(data)).id
    if features in peer.known:
        named = TranslationRequest(features, what.to, what.from_, what.task, what.beam)
        body = json.dumps(named.to_json()).encode()
        try:
            answer = yield from ask(peer, Request("POST", "/v1/translations", (), body, "application/json"))
            return TranslationResponse.from_json(answer.body)
        except CloudError as error:
            if error.code != "features_not_found":
                raise
            peer.known.pop(features, None)
    answer = yield from ask(peer, Request("POST", "/v1/translations", tuple(what.to_query()), data, _FRAME_TYPE))
    peer.remember(features)
    return TranslationResponse.from_json(answer.body)


def verification(peer: Peer, data: bytes, request: VerificationRequest) -> Talk[Verdict]:
    """Have a block checked that was drafted from a frame, which is sent before where the cloud does not hold it.

    Raises CloudError as `ask` does; `features_not_kept` from a cloud that has no room for the frame.
    """
    body = json.dumps(request.to_json(), separators=(",", ":")).encode()
    while True:
        held = request.features in peer.known
        if not held:
            yield from ask(peer, Request("PUT", f"/v1/features/{request.features}", (), data, _FRAME_TYPE))
            peer.remember(request.features)
        try:
            answer = yield from ask(peer, Request("POST", "/v1/verifications", (), body, "application/json"))
            return Verdict.from_json(answer.body)
        except CloudError as error:
            if error.code != "features_not_found" or not held:
                raise
            peer.known.pop(request.features, None)


def upload(peer: Peer, data: bytes) -> Talk[str]:
    """Store one frame in the cloud, unless it is there already; returns the features' id.

    A cloud that cannot keep it now is no error: the frame goes along when it is translated.
    """
    features = frame.read(data, cap=len(data)).id
    if features not in peer.known:
        try:
            yield from ask(peer, Request("PUT", f"/v1/features/{features}", (), data, _FRAME_TYPE))
        except CloudError as error:
            if error.code != "features_not_kept":
                raise
        else:
            peer.remember(features)
    return features


def forget(peer: Peer, features: str) -> Talk[None]:
    """Have the cloud delete the features of this id, whether it holds them or not.

    Raises UsageError `bad_request` where it can be no id, CloudError as `ask` does, and `not_deleted`.
    """
    peer.known.pop(check_features(features), None)
    yield from ask(peer, Request("DELETE", f"/v1/features/{features}"))


def models(peer: Peer) -> Talk[list[ModelCard]]:
    """What the cloud serves, at least one."""
    cards = models_from_json((yield from ask(peer, Request("GET", "/v1/models"))).body)
    if not cards:
        raise CloudError("bad_response", "The cloud serves no model: ask whoever runs it.")
    return cards


def readiness(peer: Peer, seconds: float) -> Talk[None]:
    """Ask until the cloud is ready, for at most `seconds`; then CloudError as `ask` does."""
    began = time.monotonic()
    while True:
        heard = yield Request("GET", "/readyz")
        if isinstance(heard, Answer):
            peer.answered = True
            if heard.status == 200:
                return
        left = began + seconds - time.monotonic()
        if left <= 0:
            raise _error(peer, heard)
        yield Pause(min(POLL_SECONDS, left))


def _worth_another(heard: Answer | Lost | None) -> bool:
    if not isinstance(heard, Answer):
        return isinstance(heard, Lost) and not heard.late
    code = _code(heard)
    return code == "engine_failed" or (heard.status in BUSY and code != "deadline")


def _retry_after(answer: Answer) -> float:
    """Seconds that the cloud asks to wait, given as a number or as a date; 0 where it asks for nothing."""
    text = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        # By the clock of whoever says so, where it tells it: this device's own may be wrong.
        now = _seconds(answer.headers["date"]) if "date" in answer.headers else time.time()
        return max(0.0, _seconds(text) - now)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _seconds(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp()


def _problem(answer: Answer) -> Problem | None:
    try:
        return Problem.from_json(answer.body)
    except CloudError:
        return None


def _code(answer: Answer) -> str | None:
    problem = _problem(answer)
    return None if problem is None else problem.code


def _error(peer: Peer, heard: Answer | Lost | None) -> CloudError:
    if not isinstance(heard, Answer):
        reason, late = (heard.reason, heard.late) if isinstance(heard, Lost) else ("no answer", False)
        if late:
            return CloudError("cloud_timeout", f"The cloud at {peer.url} takes too long ({reason}): try again later.")
        return CloudError(
            "cloud_unreachable",
            f"The cloud at {peer.url} cannot be reached ({reason}): is it running, and is the address right?",
        )
    code, sentence = "cloud_error", ""
    problem = _problem(heard)
    if problem is not None and re.fullmatch(r"[a-z][a-z0-9_]{0,63}", problem.code):
        code, sentence = problem.code, one_line(problem.detail or problem.title)
    if heard.status == 401:
        code = "unauthorized"
    if code == "frame_wrong_model":
        sentence = f"The cloud at {peer.url} has another model now: start again here, which fetches its edge model."
    if not sentence:
        sentence = f"{peer.url} answered with status {heard.status} and no reason: is it the address of an ESRT cloud?"
    return CloudError(code, sentence, heard.status)


def one_line(text: str) -> str:
    """A text from elsewhere, fit for a terminal: one line of printable characters, not too long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
