"""Small copies of the corpora in the layouts that the Hub and their publishers have."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from esrt.config import SAMPLE_RATE
from esrt.train.sources.synth import write_wav

SENTENCES = {
    "en_us": {3: 'The "old" bridge is closed.', 5: "It rains.", 8: "Nobody came."},
    "fr_fr": {3: "Le vieux pont est fermé.", 5: "Il pleut."},
    "cmn_hans_cn": {3: "老桥关闭了。", 8: "没有人来。"},
}
_SOUND = {"bytes": pa.binary(), "path": pa.string()}


def wav(path: Path, seconds: float = 0.5) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, np.full(int(seconds * SAMPLE_RATE), 0.1, np.float32))
    return path.read_bytes()


def parquet(path: Path, rows: list[dict[str, Any]], types: dict[str, Any]) -> None:
    """With the note on features that the Hub's converter leaves in the file; `audio` is always there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features: dict[str, Any] = {name: {"dtype": str(kind), "_type": "Value"} for name, kind in types.items()}
    features["audio"] = {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}
    schema = pa.schema(
        {**types, "audio": pa.struct(_SOUND)},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def fleurs_parquet(root: Path) -> Path:
    """As refs/convert/parquet of google/fleurs: fr_fr/train/0000.parquet."""
    types = {"id": pa.int32(), "num_samples": pa.int32(), "path": pa.string(), "transcription": pa.string(),
             "raw_transcription": pa.string(), "gender": pa.int64()}  # fmt: skip
    for config, sentences in SENTENCES.items():
        for split, ids in (("train", list(sentences)[:-1]), ("test", list(sentences)[-1:])):
            rows = []
            for number in ids:
                # Sentence 3 has two speakers.
                for take in range(2 if number == 3 else 1):
                    name = f"{1000 + 10 * number + take}.wav"
                    rows.append({
                        "id": number, "num_samples": 8000, "path": f"/cache/{name}", "transcription": "x", "gender": 0,
                        "raw_transcription": sentences[number], "audio": {"bytes": wav(root / "tmp.wav"), "path": name},
                    })  # fmt: skip
            parquet(root / config / split / "0000.parquet", rows, types)
    (root / "tmp.wav").unlink()
    return root


def fleurs_published(root: Path, packed: bool) -> Path:
    """As the main branch of google/fleurs: data/fr_fr/train.tsv and data/fr_fr/audio/train.tar.gz."""
    for config, sentences in SENTENCES.items():
        folder = root / "data" / config
        (folder / "audio").mkdir(parents=True)
        lines, sounds = [], {}
        for number, text in sentences.items():
            name = f"{1000 + 10 * number}.wav"
            lines.append("\t".join([str(number), name, text, text.lower(), "t e x t |", "8000", "FEMALE"]))
            sounds[name] = wav(folder / "audio/dev" / name)
        (folder / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if packed:
            with tarfile.open(folder / "audio/dev.tar.gz", "w:gz") as archive:
                for name, sound in sounds.items():
                    member = tarfile.TarInfo(f"dev/{name}")
                    member.size = len(sound)
                    archive.addfile(member, io.BytesIO(sound))
                    (folder / "audio/dev" / name).unlink()
            (folder / "audio/dev").rmdir()
    return root


def covost2_parquet(root: Path) -> Path:
    """As the copies of CoVoST 2 on the Hub: fr_en/train-00000-of-00001.parquet."""
    types = {name: pa.string() for name in ("client_id", "file", "sentence", "translation", "id")}
    for pair, sentence, translation in (
        ("fr_en", "Bonjour.", "Hello."),
        ("en_de", "Hello.", "Hallo."),
        ("en_zh-CN", "Hello.", "你好。"),
    ):
        rows = [
            {"client_id": "c", "file": f"{n}.mp3", "id": str(n), "sentence": sentence,
             "translation": translation if n == 1 else "REMOVE",
             "audio": {"bytes": wav(root / "tmp.wav"), "path": f"common_voice_{n}.mp3"}}
            for n in (1, 2)
        ]  # fmt: skip
        parquet(root / pair / "train-00000-of-00001.parquet", rows, types)
    (root / "tmp.wav").unlink()
    return root


CLIP_COLUMNS = (
    "client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender",
    "accents", "variant", "locale", "segment",
)  # fmt: skip


def commonvoice(root: Path) -> Path:
    """As an archive of Common Voice unpacks: fr/train.tsv, fr/validated.tsv, fr/clips."""
    clips = {
        "common_voice_fr_1.mp3": 'Il dit : "non".',
        "common_voice_fr_2.mp3": "Bonjour.",
        "common_voice_fr_3.mp3": "Oui.",
    }
    for name, listed in (("train", [0]), ("dev", [1]), ("test", [2]), ("validated", [0, 1, 2])):
        lines = ["\t".join(CLIP_COLUMNS)]
        for number in listed:
            values = {"path": list(clips)[number], "sentence": list(clips.values())[number], "locale": "fr"}
            lines.append("\t".join(values.get(column, "") for column in CLIP_COLUMNS))
        (root / "fr").mkdir(parents=True, exist_ok=True)
        (root / f"fr/{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in clips:
        wav(root / "fr/clips" / name)
    return root


def covost2_published(root: Path) -> Path:
    """As the CoVoST project publishes it, beside Common Voice 4."""
    commonvoice(root)
    lines = [
        "path\ttranslation\tsplit",
        'common_voice_fr_1.mp3\tHe says: "no".\ttrain',
        "common_voice_fr_2.mp3\tHello.\ttrain_covost",
        "common_voice_fr_3.mp3\tYes.\tdev",
        "common_voice_fr_9.mp3\tGone.\ttrain",
    ]
    (root / "covost_v2.fr_en.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
