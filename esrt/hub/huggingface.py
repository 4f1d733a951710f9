"""Folders from the Hub of Hugging Face; a short wait where nothing answers. HF_HUB_OFFLINE and HF_TOKEN count."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from esrt.errors import ModelError

ANSWER_SECONDS = 5.0
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}

# Weights in safetensors and what describes them; not the same weights again in other formats or precisions.
BASE_FILES = ["config.json", "generation_config.json", "tokenizer*.json", "model.safetensors", "model-*.safetensors"]


def fetch(repository: str, files: list[str] | None = None) -> Path:
    """Fetches `owner/name` (those of its files that match the patterns; all of them without) and returns its folder.

    What was fetched before is found again without a network. Raises ModelError: hub_refused (a licence is to be
    accepted, or a key is missing), hub_not_found, hub_unreachable (offline mode too), cache_not_writable,
    package_missing.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise ModelError("package_missing", "A package is missing: pip install huggingface_hub") from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        # First a question with a short wait: the download itself asks without one.
        HfApi().model_info(repository, timeout=ANSWER_SECONDS)
        return Path(snapshot_download(repository, allow_patterns=files, etag_timeout=ANSWER_SECONDS))
    except GatedRepoError as error:
        raise ModelError(
            "hub_refused",
            f"Hugging Face gives {repository} to those who accepted its licence: do so on its page, then set HF_TOKEN.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError("hub_not_found", f"Hugging Face has no model {repository}, or not for you.") from error
    except Exception as error:  # its HTTP library, and so the errors of a lost connection, differ between versions
        if isinstance(error, OSError) and error.errno in _DISK:
            text = f"{repository} cannot be kept ({error}): make room, or name another folder by HF_HOME."
            raise ModelError("cache_not_writable", text) from error
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        try:
            return Path(snapshot_download(repository, allow_patterns=files, local_files_only=True))
        except (OSError, ValueError):
            reason = f"it answered {status}" if status else "no answer, or offline mode is on"
            raise ModelError(
                "hub_unreachable",
                f"Hugging Face cannot be asked for {repository} ({reason}): connect, or name a local folder.",
            ) from error
