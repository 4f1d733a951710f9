"""spBLEU's tokenizer: the SentencePiece model of FLORES-200, fetched once to where sacreBLEU looks for it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from esrt.errors import UsageError

# The model of NLLB-200, under two names. The first is sacreBLEU's own source.
URLS = (
    "https://tinyurl.com/flores200sacrebleuspm",
    "https://huggingface.co/facebook/nllb-200-distilled-600M/resolve/main/sentencepiece.bpe.model",
)
SHA256 = "14bb8dfb35c0ffdea7bc01e56cea38b9e3d5efcdcb9c251d6b40538e1aab555a"
WAIT_SECONDS = 20.0


def place() -> Path:
    """Where sacreBLEU reads it."""
    from sacrebleu.utils import SACREBLEU_DIR

    return Path(SACREBLEU_DIR) / "models" / "flores200sacrebleuspm"


def fetch() -> Path:
    """The file, fetched if it is not there, and the right one. Raises UsageError `spm_missing` or `spm_damaged`."""
    path = place()
    if path.is_file():
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            raise UsageError("spm_damaged", f"{path} is not the tokenizer of spBLEU: remove it, and it comes anew.")
        return path
    reasons = []
    for url in URLS:
        try:
            content = _get(url)
        except OSError as error:
            reasons.append(str(error))
            continue
        if hashlib.sha256(content).hexdigest() == SHA256:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(path.name + ".part")
            beside.write_bytes(content)
            beside.replace(path)
            return path
        reasons.append("what came is another file")
    raise UsageError(
        "spm_missing",
        f"spBLEU needs a tokenizer of 5 MB that cannot be fetched ({reasons[0]}): connect once, or put {URLS[0]} to "
        f"{path}.",
    )


def _get(url: str) -> bytes:
    import httpx

    try:
        answer = httpx.get(url, follow_redirects=True, timeout=WAIT_SECONDS)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise OSError(f"{type(error).__name__} from {httpx.URL(url).host}") from error
    return answer.content
