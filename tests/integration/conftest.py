"""A TCP proxy that writes down what passes, so that tests can count the bytes on the socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest


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
