"""Scores a model on a manifest through the whole real path: edge graph, frame, service.

How to run (needs `pip install 'esrt[train,eval,tiny]'`):
    python recipes/score.py MODEL test.jsonl [CLIPS A LANGUAGE] [CODEC]
Prints a Markdown table: source language found, character error rate (case and punctuation
left out; of all clips together, and of the median clip), BLEU and chrF.
"""

from __future__ import annotations

import random
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jiwer
import sacrebleu
from tqdm import tqdm

from esrt.audio.io import load
from esrt.edge.pipeline import Result
from esrt.train.examples import plain
from esrt.train.manifest import Row, read_manifest
from esrt.translator import Translator

TARGETS = ("eng", "deu", "spa")


def main(model: str, manifest: Path, each: int, codec: str) -> None:
    """Translates `each` clips of every language of the manifest and prints the table."""
    clips: dict[str, dict[str, Row]] = {}
    references: dict[tuple[str, str], str] = {}
    for row in read_manifest(manifest):
        # Single words say little about a translator.
        if len(row.asr.split()) > 2:
            clips.setdefault(row.src, {})[row.audio] = row
            references[row.audio, row.tgt] = row.s2tt
    print(
        "| source | clips | language found | CER, all | CER, median clip | "
        + " | ".join(f"-> {code} BLEU / chrF" for code in TARGETS)
        + " |"
    )
    print("| --- | ---: | ---: | ---: | ---: | " + "---: | " * len(TARGETS))
    with Translator(model, codec) as translator, ThreadPoolExecutor(8) as pool:
        for source, by_audio in sorted(clips.items()):
            rows = random.Random(0).sample(list(by_audio.values()), min(each, len(by_audio)))

            def answer(row: Row) -> Result:
                return translator.translate(load(row.audio), [code for code in TARGETS if code != row.src])

            results = list(tqdm(pool.map(answer, rows), total=len(rows), desc=source, disable=None))
            found = sum(result.source == source for result in results) / len(rows)
            said = [plain(row.asr) for row in rows]
            heard = [plain(result.transcript) or "-" for result in results]
            middle = statistics.median(jiwer.cer(one, other) for one, other in zip(said, heard, strict=True))
            cells = [f"{found:.0%}", f"{jiwer.cer(said, heard):.2f}", f"{middle:.2f}"]
            for target in TARGETS:
                pairs = [
                    (result.translations[target], references[row.audio, target])
                    for row, result in zip(rows, results, strict=True)
                    if (row.audio, target) in references and target != source
                ]
                if not pairs:
                    cells.append("-")
                    continue
                texts, wanted = [text for text, _ in pairs], [[text for _, text in pairs]]
                bleu, chrf = sacrebleu.corpus_bleu(texts, wanted).score, sacrebleu.corpus_chrf(texts, wanted).score
                cells.append(f"{bleu:.1f} / {chrf:.1f}")
            print(f"| {source} | {len(rows)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    _, model, manifest, *rest = sys.argv
    main(model, Path(manifest), int(rest[0]) if rest else 100, rest[1] if len(rest) > 1 else "int8")
