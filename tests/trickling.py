"""A web server that never stops answering."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_PAUSE_SECONDS = 0.1


class Trickling:
    """Serves on loopback, and answers what it is asked a byte at a time.

    `head`: what it says at once, before that.
    """

    def __init__(self, head: bytes = b"HTTP/1.0 200 OK\r\n\r\n") -> None:
        self._head = head
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = threading.Event()
        self.is_asked = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._trickle, args=[connection], daemon=True).start()

    def _trickle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(self._head)
            self.is_asked.set()
            while not self._closed.wait(_PAUSE_SECONDS):
                connection.sendall(b"x")

    def __enter__(self) -> Trickling:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._listener.close()
