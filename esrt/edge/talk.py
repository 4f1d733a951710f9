"""How a cloud is asked, without a socket: what to send or how long to wait, given what came back.

Each conversation is a generator. It yields a Request, and is sent the Answer or the Lost that came of it; or it yields
a Pause, and is sent None. `client` drives it over blocking sockets, `async_client` in an event loop.
"""

from __future__ import annotations

import email.utils
import itertools
import random
import re
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from esrt.errors import CloudError
from esrt.wire.schemas import Problem

Value = TypeVar("Value")

BUSY = frozenset({408, 429, 502, 503, 504})
"""What the cloud may answer to the same request otherwise: a body that came too slowly, too much to do, a gateway."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
POLL_SECONDS = 0.5
ENGINE_TRIES = 3
"""Of a request whose decoding failed: most often another one in its batch was the cause, or there was no memory."""
REMEMBERED = 10_000


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
    """No answer came: the cloud was too slow (`late`), or the connection failed for this `reason`.

    `unreached`: there was no connection from the start.
    """

    reason: str
    late: bool = False
    unreached: bool = False


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
        for old in list(self.known)[:-REMEMBERED]:  # a copy, as other threads remember too
            self.known.pop(old, None)


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
        began = time.monotonic()
        heard = yield request
        wait = 0.0
        if isinstance(heard, Answer):
            peer.answered = True
            if 200 <= heard.status < 300:
                return heard
            wait = _retry_after(heard)
            engine_failed += _code(heard) == "engine_failed"
        now = time.monotonic()
        if failed_first is None:
            # An attempt that broke off may have gone well for long, as a large file does; one to connect never did.
            failed_first = began if isinstance(heard, Lost) and heard.unreached else now
        pause = wait + random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 10))
        patience = peer.patience if peer.answered else min(peer.first_patience, peer.patience)
        if not _worth_another(heard) or engine_failed >= ENGINE_TRIES or now - failed_first + pause > patience:
            raise _error(peer, heard)
        yield Pause(pause)
    raise AssertionError("unreachable")


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
