"""Any server with OpenAI's audio API: `/audio/transcriptions` and `/audio/translations`."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np

from esrt.audio.io import load
from esrt.config import SAMPLE_RATE
from esrt.errors import AudioError, CloudError, UsageError
from esrt.evaluate.baselines import unsupported
from esrt.evaluate.run import Answer, Clip, System, not_read
from esrt.languages import LANGUAGES, get

ENGLISH = "eng"
AT_ONCE = 4
TIMEOUT_SECONDS = 300.0
_NAMES = {language.name.lower(): code for code, language in LANGUAGES.items()}


def system(url: str, model: str, key: str | None) -> System:
    """`url` ends where the API's paths begin: `https://api.openai.com/v1`. `key` is its bearer token.

    The API translates into English alone. Into other languages it is asked by `to_language`, as `esrt sidecar` is;
    where the answer does not say that it is in that language, UsageError `language_not_supported` is raised.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(http: httpx.Client, what: str, sound: bytes, **fields: str) -> dict[str, Any]:
        form = {"model": model, "response_format": "verbose_json", **fields}
        try:
            answer = http.post(f"audio/{what}", data=form, files={"file": ("clip.wav", sound, "audio/wav")})
            answer.raise_for_status()
            body = answer.json()
            if not isinstance(body, dict) or not isinstance(body.get("text"), str):
                raise ValueError("an answer without text")
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise CloudError("server_refused", f"{url} refuses audio/{what} with status {status}.", status) from error
        except (httpx.HTTPError, ValueError) as error:
            raise CloudError(
                "server_failed", f"{url} does not answer audio/{what} ({error}): is it running?"
            ) from error
        return body

    def answer(http: httpx.Client, clip: Clip) -> Answer:
        try:
            sound = wav(clip.audio)
        except AudioError as error:
            return not_read(clip, error)
        # Whisper's own codes are those that such servers know.
        told = {} if clip.told is None else {"language": LANGUAGES[clip.told].whisper or LANGUAGES[clip.told].bcp47}
        heard = ask(http, "transcriptions", sound, **told)
        texts = {}
        for target in clip.targets:
            other = {} if target == ENGLISH else {"to_language": target}
            body = ask(http, "translations", sound, **other)
            if other and language(body.get("language")) != target:
                raise unsupported(url, "target", target)
            texts[target] = body["text"].strip()
        return Answer(clip.told or language(heard.get("language")), heard["text"].strip(), texts)

    def answers(clips: Sequence[Clip]) -> Iterator[Answer]:
        with httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=TIMEOUT_SECONDS) as http:
            pool = ThreadPoolExecutor(AT_ONCE)
            try:
                yield from pool.map(lambda clip: answer(http, clip), clips)
            finally:
                pool.shutdown(cancel_futures=True)

    if httpx.URL(url).scheme not in ("http", "https"):
        raise UsageError("bad_url", f"{url[:80]} is no address of a server: give one such as http://127.0.0.1:8081/v1.")
    return answers


def language(name: object) -> str | None:
    """The code of a language as such servers write it: `english`, `en`; None for what is none of ours."""
    if not isinstance(name, str):
        return None
    try:
        return _NAMES.get(name.lower()) or get(name).code
    except UsageError:
        return None


def wav(path: str) -> bytes:
    """Any sound file as the server can read it: 16 kHz, mono, 16 bits."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(load(path), -1, 1) * 32767).astype("<i2").tobytes())
    return made.getvalue()
