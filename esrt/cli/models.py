"""`esrt models`: the models by name, what they are made of, and getting one onto this machine."""

from __future__ import annotations

import argparse
from importlib import resources
from typing import TYPE_CHECKING

from esrt.cli import common
from esrt.config import PRESETS, ModelConfig
from esrt.errors import UsageError
from esrt.wire import frame
from esrt.wire.codecs import CODECS

if TYPE_CHECKING:
    from esrt.cli.common import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb to the command's parser."""
    parser = common.verb(
        verbs,
        "models",
        "List the models, look at one, or get one ready to run.",
        """
esrt models list
esrt models info ESRT-4B
esrt models pull ESRT-270M
esrt models pull yxdu/ESRT-4B --trust-remote-code     the paper's own release: its code runs here, once
""",
    )
    verb = parser.add_subparsers(metavar="list|info|pull", required=True)
    verb.add_parser("list", help="all models that have a name").set_defaults(run=_list)
    info = verb.add_parser("info", help="what a model is made of")
    info.add_argument("name", metavar="NAME")
    info.set_defaults(run=_info)
    pull = verb.add_parser("pull", help="download, check and convert what a model needs; prints its folder")
    pull.add_argument("name", metavar="NAME", help="a name of `esrt models list`, or a model folder")
    pull.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that a release brings, to convert it"
    )
    pull.set_defaults(run=_pull)


def state(name: str) -> str:
    """`ready` to run; `to pull`: trained, but not joined with its base weights yet; `no weights`: not trained."""
    from esrt import hub

    if hub.is_built(name):
        return "ready"
    return "to pull" if (resources.files("esrt") / "weights" / name).is_dir() else "no weights"


def _list(args: argparse.Namespace) -> int:
    for name, config in PRESETS.items():
        print(f"{name:<15}{state(name):<12}{_shape(config):<10}{config.encoder.weights} + {config.llm.weights}")
    return 0


def _info(args: argparse.Namespace) -> int:
    config = PRESETS.get(args.name)
    if config is None:
        raise UsageError("unknown_model", f"Unknown model {args.name!r}: `esrt models list` names all.")
    encoder, adapter, llm = config.encoder, config.adapter, config.llm
    sizes = ", ".join(
        f"{name} {frame.size(codec, adapter.queries, adapter.width):,} bytes" for name, codec in CODECS.items()
    )
    print(f"name      {config.name}")
    print(f"encoder   {encoder.weights}: {encoder.layers} layers, width {encoder.width}, frozen")
    print(f"adapter   {adapter.style}: {adapter.layers} layers, {adapter.heads} heads, {_shape(config)} on the wire")
    print(f"LLM       {llm.weights}: {llm.layers} layers, width {llm.width}")
    print(f"state     {state(args.name)}")
    print(f"one frame {sizes}; speech is cut at {config.longest:g} s")
    return 0


def _pull(args: argparse.Namespace) -> int:
    from esrt.translator import prepare

    print(prepare(args.name, args.trust_remote_code))
    return 0


def _shape(config: ModelConfig) -> str:
    return f"{config.adapter.queries} x {config.adapter.width}"
