"""Three clips of human speech, each translated into two other languages. `make demo` runs this.

Both halves run in this process. Between them stands the frame: the bytes that would cross the network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from esrt import LANGUAGES, Translator

CLIPS = {"spanish.flac": ["eng", "fra"], "french.flac": ["eng", "spa"], "russian.flac": ["eng", "ita"]}


def main() -> None:
    """Translate and print."""
    print("Loading ESRT-270M. The first time, its base weights are converted: a minute or two.", file=sys.stderr)
    with Translator() as translator:
        for name, to in tqdm(CLIPS.items(), unit="clip", disable=None, leave=False):
            result = translator.translate(Path(__file__).parent / name, to=to)
            source = LANGUAGES[result.source].name if result.source else "none"
            tqdm.write(f"\nexamples/{name}")
            tqdm.write(f"  source language  {source}")
            tqdm.write(f"  transcript       {result.transcript}")
            for code, text in result.translations.items():
                tqdm.write(f"  {LANGUAGES[code].name:<17}{text}")
            tqdm.write(f"  over the wire    {result.wire_bytes:,} bytes")
            tqdm.write(f"  seconds          {result.edge_seconds:.2f} edge, {result.cloud_seconds:.2f} cloud")


if __name__ == "__main__":
    main()
