"""vLLM without a server: `LLM.generate` on the very rows that our server would feed it: all clips at once, and when
they have been transcribed, all translations.

`speed` runs this with the Python that has vLLM: `python -m esrt.bench.cloud.offline FOLDER SEQUENCES`. It says `ready`,
and then answers each line `{"frames": [base64], "to": [code]}` with a line `{"tokens": n, "seconds": s}`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esrt.cloud.engines.base import Rows
from esrt.cloud.engines.vllm import VLLMEngine, read_flags
from esrt.cloud.engines.vllm_folder import embedding, language_model
from esrt.cloud.engines.vllm_plugin import SERVER
from esrt.cloud.text import Text
from esrt.model import checkpoint
from esrt.model.language_model import load_tokenizer
from esrt.wire import codecs, frame

MOST_TOKENS, MOST_ROWS = 200, 592  # of an answer, and with its prompt: as our service has it


class Offline:
    """A ready model folder in a vLLM with our server's own settings, `sequences` decoded at once."""

    def __init__(self, ready: Path, sequences: int) -> None:
        args, model = read_flags(["--max-num-seqs", str(sequences)]), language_model(ready)
        from vllm import LLM
        from vllm.engine.arg_utils import EngineArgs

        args.model, args.max_model_len = str(model.folder), MOST_ROWS
        args.skip_tokenizer_init = args.enable_prompt_embeds = True
        settings = EngineArgs.from_cli_args(args)
        os.environ[SERVER] = str(os.getpid())  # its engine ends with this process
        self.llm = LLM(**{field.name: getattr(settings, field.name) for field in fields(settings)})
        self.ids, self.eos_ids = model.ids, model.eos_ids
        self.text = Text(load_tokenizer(ready / "llm").backend_tokenizer)
        self.engine = VLLMEngine(self.llm, embedding(ready), model.ids, model.eos_ids)  # its embed, and no more
        self.projector, self.tables = checkpoint.load_projector(ready), checkpoint.load_tables(ready)

    @torch.inference_mode()
    def audio(self, data: bytes) -> Rows:
        """A frame's rows [queries, llm]."""
        rows = codecs.decode(frame.read(data, cap=len(data)), self.tables)
        projected: Rows = self.projector(torch.from_numpy(rows)[None])[0].numpy()
        return projected

    def generate(self, prompts: Sequence[Rows]) -> list[list[int]]:
        """The tokens that each continues with, a tag at their end included."""
        from vllm import SamplingParams

        ends = self.eos_ids | set(self.text.codes)
        settings = SamplingParams(
            temperature=0.0,
            max_tokens=MOST_TOKENS,
            stop_token_ids=[number for number, token in enumerate(self.ids) if token in ends],
            detokenize=False,
        )
        dtype = self.llm.model_config.dtype
        asked: Any = [{"prompt_embeds": torch.from_numpy(rows).to(dtype)} for rows in prompts]
        found = self.llm.generate(asked, settings, use_tqdm=False)
        answers = [[self.ids[number] for number in output.outputs[0].token_ids] for output in found]
        return [[token for token in answer if token not in self.eos_ids] for answer in answers]

    def measure(self, frames: Sequence[bytes], to: Sequence[str]) -> dict[str, float]:
        """Tokens and seconds of all transcripts and translations; the clips' rows were made before."""
        audio = [self.audio(data) for data in frames]
        began = time.perf_counter()
        heard = self.generate(audio)
        translations = [
            np.concatenate([rows, self.engine.embed([*ids, self.text.tags[code]])])
            for rows, ids, code in zip(audio, heard, to, strict=True)
        ]
        found = [*heard, *self.generate(translations)]
        return {"tokens": sum(map(len, found)), "seconds": time.perf_counter() - began}


def main() -> None:
    """Answers lines until there are no more."""
    # What vLLM prints is no answer: only this file's own lines go where ours are read.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    offline = Offline(Path(sys.argv[1]), int(sys.argv[2]))
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        found = offline.measure([base64.b64decode(data) for data in asked["frames"]], asked["to"])
        print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
