"""What is asked of a cloud, and in which order: features are sent once, and again where the cloud forgot them.

Each conversation is a generator (talk.Talk).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, TypeAlias

from esrt import languages
from esrt.edge.talk import Peer, Request, Talk, ask
from esrt.errors import CloudError
from esrt.wire import frame
from esrt.wire.schemas import ModelCard, TranslationRequest, TranslationResponse, check_features, models_from_json
from esrt.wire.verification import Verdict, VerificationRequest

_FRAME_TYPE = "application/octet-stream"

Task: TypeAlias = Literal["translate", "transcribe", "caption"]


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
    """Store one frame in the cloud, or have it kept for as long again; returns the features' id.

    A cloud that cannot keep it now is no error: the frame goes along when it is translated.
    """
    features = frame.read(data, cap=len(data)).id
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
