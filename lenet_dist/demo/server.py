"""The page's server: it takes a drawing and gives what the model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from lenet_dist.data import picture
from lenet_dist.data.dataset import pixels
from lenet_dist.model import inspect
from lenet_dist.model.lenet5 import LeNet5

SIDE = 140
"""Pixels of a drawing's side: a byte each, 0 for paper to 255 for ink."""
HOSTS = ("127.0.0.1", "localhost")
_PAGE = Path(__file__).parent / "page.html"
_HEADERS = {
    # Only what the page itself contains, and nothing from anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; connect-src 'self'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


def application(
    model: LeNet5, probabilities_of: Callable[[Tensor], Tensor], hosts: Sequence[str] = HOSTS
) -> Starlette:
    """The page at /, and at /look what the model makes of a drawing.

    Host names other than `hosts` are refused: another site could point its own name at a server
    that is for this machine only.
    """

    async def page(request: Request) -> Response:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers=_HEADERS)

    async def look(request: Request) -> Response:
        drawing = bytearray()
        async for part in request.stream():
            drawing += part
            if len(drawing) > SIDE * SIDE:
                break
        if len(drawing) != SIDE * SIDE:
            return PlainTextResponse(f"a drawing has {SIDE} x {SIDE} bytes", status_code=400)
        levels = np.frombuffer(bytes(drawing), np.uint8).reshape(SIDE, SIDE)
        return JSONResponse(_seen(model, probabilities_of, levels.astype(np.float32)))

    return Starlette(
        routes=[Route("/", page), Route("/look", look, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


@torch.no_grad()
def _seen(
    model: LeNet5, probabilities_of: Callable[[Tensor], Tensor], levels: picture.Grey
) -> dict[str, Any] | None:
    """Probabilities of the ten digits, and the drawing as the model, C1 and C3 see it.

    None if nothing is drawn.
    """
    try:
        digit = picture.as_mnist(levels)
    except ValueError:
        return None
    image = pixels(torch.from_numpy(digit)[None])
    c1, c3 = inspect.convolved(model, image[0])
    return {
        "probabilities": probabilities_of(image).tolist(),
        "input": _grey(image[0]),
        "c1": _grey(c1),
        "c3": _grey(c3),
    }


def _grey(maps: Tensor) -> list[list[int]]:
    """Maps [count, height, width] as bytes, each map's greatest value 255."""
    greatest = maps.amax((1, 2), keepdim=True).clamp_min(1e-6)
    return (maps / greatest * 255).round().int().flatten(1).tolist()
