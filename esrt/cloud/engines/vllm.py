"""The engine for many users: vLLM, in a process of its own, reads the rows that we make as prompt embeddings.

Audio rows come first in every prompt. vLLM keeps the keys and values of whole blocks of rows by what is in them and
before them, so all that is asked of one clip shares them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Hashable, Iterable, Sequence
from contextlib import aclosing
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from esrt.cloud.engines.base import Ranks, Rows, Sampling
from esrt.cloud.engines.vllm_folder import embedding, language_model
from esrt.cloud.engines.vllm_plugin import SERVER
from esrt.errors import CloudError, ModelError, UsageError, where

log = logging.getLogger(__name__)

# Rows in a block of keys and values. Only whole blocks are shared: of 80 audio rows all, or 64 on a processor, where
# vLLM takes multiples of 32 alone and 128 by itself.
_BLOCK, _CPU_BLOCK = 16, 32
_CPU_BYTES = 1 << 30  # keys and values on a processor, where vLLM would take nearly all memory
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process has our threads' locks and would not load our plugin
}


class VLLMEngine:
    """Decodes with `llm`, a running vllm.v1.engine.async_llm.AsyncLLM that takes prompt embeddings.

    `table` [vocabulary, width] is the embedding table; `ids[n]` is the token that vLLM numbers n.
    """

    def __init__(self, llm: Any, table: Tensor, ids: Sequence[int], eos_ids: Iterable[int]) -> None:
        self._llm = llm
        self._table = table
        self._ids = ids
        self._numbers = {token: number for number, token in enumerate(ids)}
        self.eos_ids = frozenset(eos_ids)
        self._dtype: torch.dtype = llm.model_config.dtype
        self._scale = torch.tensor(table.shape[1] ** 0.5, dtype=self._dtype)
        self._names = map(str, count())
        self._running: set[str] = set()
        self._closing = self._died = False

    @property
    def width(self) -> int:
        return self._table.shape[1]

    @property
    def ready(self) -> bool:
        return not self._closing and not self.failed

    @property
    def failed(self) -> bool:
        return self._died or (not self._closing and bool(self._llm.errored))

    @property
    def load(self) -> int:
        return len(self._running)

    def embed(self, ids: Sequence[int]) -> Rows:
        """Rows [n, width] of token ids, scaled by sqrt(width) in the model's type, as Gemma's embedding layer does."""
        rows: Rows = (self._table[list(ids)].to(self._dtype) * self._scale).float().numpy()
        return rows

    async def generate(self, rows: Rows, sampling: Sampling) -> AsyncGenerator[int, None]:
        """Continue `rows` [n, width], used as they are. See Engine.generate."""
        from vllm.inputs.engine import embeds_input

        if rows.ndim != 2 or rows.shape[1] != self.width or not len(rows):
            raise ValueError(f"rows of shape {rows.shape}, expected [n, {self.width}] with n > 0")
        if sampling.beam > 1:
            raise CloudError(
                "beam_not_supported", "This server has no beam search: leave `beam` out, or ask for a beam of 1.", 400
            )
        prompt = embeds_input(torch.from_numpy(rows).to(self._dtype), cache_salt=sampling.salt or None)
        async with aclosing(self._outputs(prompt, self._parameters(sampling))) as outputs:
            async for output in outputs:
                for number in output.outputs[0].token_ids:
                    if (token := self._ids[number]) not in self.eos_ids:
                        yield token

    async def verify(self, key: Hashable, rows: Rows, block: Sequence[int]) -> Ranks:
        """See Engine.verify. All rows are computed each time: vLLM says nothing of those that it finds in its cache.

        Of equals none comes first, so that a rank may be higher here than on another engine.
        """
        from vllm import SamplingParams
        from vllm.inputs.engine import embeds_input

        if len(rows) >= self._llm.model_config.max_model_len:
            raise UsageError("bad_request", "The request cannot be read: its prefix is longer than any text here.")
        # A token that the model cannot write has no number: what it would write there instead is asked for.
        known = list(takewhile(lambda number: number is not None, map(self._numbers.get, block)))
        rows = rows[: len(rows) - len(block) + len(known)]
        before = len(rows) - len(known)
        prompt = embeds_input(
            torch.from_numpy(rows).to(self._dtype),
            prompt_token_ids=[*[0] * before, *known],
            is_token_ids=[*[False] * before, *[True] * len(known)],
        )
        asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        async with aclosing(self._outputs(prompt, asked)) as outputs:
            found = [output async for output in outputs][-1]
        ranks, best = [], []
        for place, number in enumerate(known, before):
            likely = found.prompt_logprobs[place]
            ranks.append(likely[number].rank)
            best.append(self._ids[next(other for other, about in likely.items() if about.rank == 1)])
        missing = len(block) - len(known)
        return Ranks(
            [*ranks, *[len(self._ids) + 1] * missing], [*best, *[self._ids[found.outputs[0].token_ids[0]]] * missing]
        )

    async def _outputs(self, prompt: Any, parameters: Any) -> AsyncGenerator[Any, None]:
        """What vLLM answers, piece by piece. Raises CloudError `not_ready` or `engine_failed`."""
        if not self.ready:
            raise _closed()
        name = next(self._names)
        self._running.add(name)
        try:
            async with aclosing(self._llm.generate(prompt, parameters, name)) as outputs:
                async for output in outputs:
                    yield output
                    if output.outputs[0].finish_reason not in (None, "stop", "length"):
                        raise _closed() if self._closing else _failed()
        except CloudError:
            raise
        except Exception as error:
            if not self.ready:
                raise _closed() from None
            log.error("engine: %s", where(error))
            raise _failed() from None
        finally:
            self._running.discard(name)

    def _parameters(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        def numbers(ids: frozenset[int]) -> list[int]:
            found = (self._numbers.get(token) for token in ids)
            return [number for number in found if number is not None]

        return SamplingParams(
            temperature=0.0,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=numbers(sampling.stop_ids | self.eos_ids),
            allowed_token_ids=numbers(sampling.only) or None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def close(self) -> None:
        self._died, self._closing = self.failed, True
        if not self._died:
            await self._llm.abort(list(self._running))
        await asyncio.to_thread(self._llm.shutdown)


def read_flags(flags: Sequence[str]) -> argparse.Namespace:
    """Read vLLM's own command line, by its own parser, with our defaults where it says nothing.

    Raises UsageError: `not_installed`, `vllm_flags`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ModuleNotFoundError as error:
        raise UsageError(
            "not_installed",
            f"{error.name} is not installed: `pip install 'esrt[vllm]'` on a machine with a GPU; without one, "
            "docs/engines.md says how.",
        ) from error

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise UsageError("vllm_flags", f"vLLM does not take these flags: {message}.")

    parser = AsyncEngineArgs.add_cli_args(Parser(prog="esrt serve --engine vllm --", allow_abbrev=False))
    parser.set_defaults(block_size=_BLOCK, use_tqdm_on_load=False)
    if current_platform.is_cpu():
        parser.set_defaults(block_size=_CPU_BLOCK, enforce_eager=True)  # compiling takes minutes there
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # nor may the ranks of prompt tokens be compiled
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            parser.set_defaults(kv_cache_memory_bytes=_CPU_BYTES)
    args: argparse.Namespace = parser.parse_args(list(flags))
    return args


def start(ready: Path, args: argparse.Namespace, max_rows: int) -> VLLMEngine:
    """Load the LLM of a ready folder into vLLM; prompts and answers have `max_rows` rows together, at most.

    `args` come from `read_flags`. The engine's process ends with the thread that calls this: let it be one that stays.
    Raises ModelError, UsageError `vllm_flags`.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    model = language_model(ready)
    args.model = str(model.folder)
    args.skip_tokenizer_init = args.enable_prompt_embeds = True
    args.max_model_len = args.max_model_len or max_rows
    args.served_model_name = args.served_model_name or [ready.name]
    os.environ[SERVER] = str(os.getpid())
    try:
        config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    except (ValueError, RuntimeError, NotImplementedError) as error:  # pydantic's ValidationError is a ValueError
        said = " ".join(str(error).split())
        raise UsageError("vllm_flags", f"vLLM does not start with these flags: {said[:300]}") from error
    try:
        llm = AsyncLLM.from_vllm_config(config, disable_log_stats=args.disable_log_stats)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            "engine_failed", "vLLM's engine did not start: its own lines before this one say why."
        ) from error
    # What it says when its engine has ended is said by us. Not before now: starting, it sets all of its loggers anew.
    logging.getLogger("vllm.v1.engine.async_llm").setLevel(logging.CRITICAL)
    return VLLMEngine(llm, embedding(ready), model.ids, model.eos_ids)


def _closed() -> CloudError:
    return CloudError("not_ready", "The server is starting or stopping: try again in a moment.", 503)


def _failed() -> CloudError:
    return CloudError("engine_failed", "The server could not decode this request.", 500)
