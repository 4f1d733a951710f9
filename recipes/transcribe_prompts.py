"""Transcripts of the Spanish, French, Italian and Russian prompts, which come without text: Whisper base's own.

How to run (needs `pip install '.[train,tiny]' ctranslate2`): python recipes/transcribe_prompts.py UNPACKED OUT.jsonl
Kept are transcripts Whisper was sure of; the result of one run lies beside this file.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import ctranslate2
import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from esrt.audio.io import load
from esrt.audio.padding import pad
from esrt.config import SAMPLE_RATE
from esrt.hub import packages
from esrt.languages import LANGUAGES
from esrt.model.mel import LogMel
from esrt.train.sources import asterisk

SPELLED = ("digits", "letters", "phonetic")  # single words: easy to get wrong, so only when very sure
LOWEST_SCORE, LOWEST_SPELLED, MOST_CHARACTERS = -0.65, -0.4, 26  # mean log-probability; characters a second


def transcripts(root: Path, whisper: Path) -> list[dict[str, str]]:
    """Prompt ids and texts; `whisper` is a model folder of CTranslate2."""
    model = ctranslate2.models.Whisper(str(whisper), compute_type="int8")
    tokenizer, mel, found = Tokenizer.from_file(str(whisper / "tokenizer.json")), LogMel(80), []
    for language in ("ita", "spa", "fra", "rus"):
        voice = root / "usr/share/asterisk/sounds" / asterisk.VOICES[language]
        start = ["<|startoftranscript|>", f"<|{LANGUAGES[language].whisper}|>", "<|transcribe|>", "<|notimestamps|>"]
        for path in tqdm(sorted(voice.rglob("*.g722")), desc=language):
            if path.stat().st_size < asterisk.SHORTEST:
                continue
            samples = load(path)
            log_mel = mel(torch.from_numpy(pad(samples, "speech"))[None]).numpy()
            answer = model.generate(
                ctranslate2.StorageView.from_array(np.ascontiguousarray(log_mel)), [start], beam_size=1,
                max_length=150, return_scores=True,
            )[0]  # fmt: skip
            text, prompt = (
                tokenizer.decode(answer.sequences_ids[0]).strip(),
                str(path.relative_to(voice).with_suffix("")),
            )
            lowest = LOWEST_SPELLED if prompt.split("/")[0] in SPELLED else LOWEST_SCORE
            if len(text) > 2 and answer.scores[0] > lowest and len(text) < MOST_CHARACTERS * len(samples) / SAMPLE_RATE:
                found.append({"language": language, "id": prompt, "text": text})
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        packages.assemble("openai/whisper-base", Path(folder))
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            if found := packages.beside("openai/whisper-base", name):
                shutil.copyfile(found, Path(folder) / name)
        lines = [json.dumps(entry, ensure_ascii=False) for entry in transcripts(Path(sys.argv[1]), Path(folder))]
    Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")
