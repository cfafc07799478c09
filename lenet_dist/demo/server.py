"""The page's server: it takes a drawing and gives what the model makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenet_dist.data import picture
from lenet_dist.data.dataset import pixels
from lenet_dist.model import inspect
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.model.prediction import Forward

SIDE = 140
"""Pixels of a drawing's side: a byte each, 0 for paper to 255 for ink."""
HOSTS = ("127.0.0.1", "localhost")
"""This machine's names for itself."""
_PATIENCE_SECONDS = 10
_PAGE = Path(__file__).parent / "page.html"
_HEADERS = {
    # Only what the page itself contains, and nothing from anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; connect-src 'self'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


def page_server(
    address: tuple[str, int], hosts: Sequence[str] | None, model: LeNet5, probabilities_of: Forward
) -> ThreadingHTTPServer:
    """A server of the page at /, and at /look of what the model makes of a drawing.

    It answers to the names `hosts` alone, or to any: another site could point its own name at a
    server that is for this machine only.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_SECONDS

        def do_GET(self) -> None:
            self._respond("/", "text/html; charset=utf-8", _PAGE.read_bytes)

        def do_POST(self) -> None:
            if self.headers["Content-Length"] != str(SIDE * SIDE):
                self.send_error(400, f"a drawing has {SIDE} x {SIDE} bytes")
                return
            drawing = np.frombuffer(self.rfile.read(SIDE * SIDE), np.uint8)
            levels = drawing.reshape(SIDE, SIDE).astype(np.float32)
            self._respond(
                "/look", "application/json", lambda: _seen(model, probabilities_of, levels)
            )

        def _respond(self, path: str, kind: str, content: Callable[[], bytes]) -> None:
            if hosts and (self.headers["Host"] or "").partition(":")[0] not in hosts:
                self.send_error(400, "another name of this machine is asked for")
            elif self.path != path:
                self.send_error(404)
            else:
                self.send_response(200)
                for name, value in (*_HEADERS.items(), ("Content-Type", kind)):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content())

        def log_message(self, format: str, *arguments: Any) -> None:
            """Print nothing."""

    return ThreadingHTTPServer(address, Handler)


@torch.no_grad()
def _seen(model: LeNet5, probabilities_of: Forward, levels: picture.Grey) -> bytes:
    """Probabilities of the ten digits, and the drawing as the model, C1 and C3 see it, in JSON.

    null if nothing is drawn.
    """
    try:
        digit = picture.as_mnist(levels)
    except ValueError:
        return b"null"
    image = pixels(torch.from_numpy(digit)[None])
    c1, c3 = inspect.convolved(model, image[0])
    maps = {"input": _grey(image[0]), "c1": _grey(c1), "c3": _grey(c3)}
    return json.dumps({"probabilities": probabilities_of(image).tolist(), **maps}).encode()


def _grey(maps: Tensor) -> list[list[int]]:
    """Maps [count, height, width] as bytes, each map's greatest value 255."""
    greatest = maps.amax((1, 2), keepdim=True).clamp_min(1e-6)
    return (maps / greatest * 255).round().int().flatten(1).tolist()
