"""A TCP proxy that writes down what passes, so that tests can count the bytes on the socket; and what vLLM hears."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from esrt.audio.io import load
from esrt.edge.encoder import Encoder
from esrt.wire.codecs import encode

VLLM = Path(sys.prefix) / "vllm" / "bin" / "python"
CLIPS = 50

needs_vllm = pytest.mark.skipif(not VLLM.exists(), reason="vLLM is not installed: `make .venv/.vllm` does it")


class CountingProxy:
    """Listens on `url` and hands every connection on to 127.0.0.1:`port`. `sent` is what clients sent, all of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sent = bytearray()
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Count from here on."""
        self.sent.clear()
        self.received = 0

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                cloud = socket.create_connection(("127.0.0.1", self.port), timeout=600)
            except OSError:  # nobody there: the client sees its connection end
                client.close()
                continue
            for source, sink, upwards in ((client, cloud, True), (cloud, client, False)):
                threading.Thread(target=self._pass_on, args=(source, sink, upwards), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if upwards:
                    self.sent += data
                else:
                    self.received += len(data)
                sink.sendall(data)
        for side in (source, sink):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def proxy_to() -> Iterator[Callable[[int], CountingProxy]]:
    """`proxy_to(port)` starts a proxy in front of a server."""
    proxies: list[CountingProxy] = []

    def start(port: int) -> CountingProxy:
        proxies.append(CountingProxy(port))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.fixture(scope="module")
def frames(model: Path, examples: Path) -> list[bytes]:
    """Human speech in four languages, cut differently each time."""
    encoder = Encoder(model / "edge.onnx", threads=1)
    data = Path(__file__).parents[1] / "data"
    sounds = [load(path) for path in sorted([*examples.glob("*.flac"), *data.rglob("*.flac")])]
    made = []
    for number in range(CLIPS):
        again, which = divmod(number, len(sounds))
        sound = sounds[which][again * 2_000 :][: 30_000 + again * 3_000]  # about two seconds
        made.append(encode(encoder.encode(sound), "int8", encoder.tables, encoder.fingerprint).to_bytes())
    assert len(set(made)) == CLIPS
    return made


def is_alive(pid: int) -> bool:
    """Not a zombie either: those have no program."""
    return Path(f"/proc/{pid}/exe").exists()
