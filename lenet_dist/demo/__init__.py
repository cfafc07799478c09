"""Serve a page where you draw a digit and see what the network computes.

    python -m lenet_dist.demo [--weights FILE] [--port N]

It is served to this machine only. Ctrl-C ends it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.predict import PRETRAINED

_PORT = 8028


def main(arguments: list[str]) -> None:
    """Serve the page until it is interrupted."""
    parser = exits.ArgumentParser(prog="lenet_dist.demo", description=__doc__)
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, default=PRETRAINED,
        help="a weights file (default: the package's own)",
    )  # fmt: skip
    parser.add_argument(
        "--port", metavar="N", type=int, default=_PORT,
        help=f"port to listen on (default {_PORT}; 0: any free one)",
    )  # fmt: skip
    request = parser.parse_args(arguments)
    import torch

    from lenet_dist.demo.server import ADDRESS, page_server
    from lenet_dist.model import prediction, weights

    torch.set_num_threads(1)
    model = weights.read(request.weights).eval()
    try:
        server = page_server(request.port, model, prediction.by(request.weights))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "must be from 0 to 65535"
        raise RequestError(f"--port {request.port}: {reason}") from None
    with suppress(KeyboardInterrupt):
        print(f"http://{ADDRESS}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
