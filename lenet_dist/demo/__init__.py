"""Serve a page where you draw a digit and see what the network computes.

    python -m lenet_dist.demo [--weights FILE] [--port N] [--host ADDRESS]

It is served to this machine only, unless --host says otherwise. Ctrl-C ends it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.predict import PRETRAINED

_ADDRESS = "127.0.0.1"
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
    parser.add_argument(
        "--host", metavar="ADDRESS", default=_ADDRESS,
        help=f"address to listen on (default {_ADDRESS}; 0.0.0.0: open to other machines)",
    )  # fmt: skip
    request = parser.parse_args(arguments)
    import torch

    from lenet_dist.demo.server import HOSTS, page_server
    from lenet_dist.model import prediction, weights

    torch.set_num_threads(1)
    model = weights.read(request.weights).eval()
    try:
        server = page_server(
            (request.host, request.port), HOSTS if request.host == _ADDRESS else None,
            model, prediction.by(request.weights),
        )  # fmt: skip
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "must be from 0 to 65535"
        where = "" if request.host == _ADDRESS else f"--host {request.host} "
        raise RequestError(f"{where}--port {request.port}: {reason}") from None
    with suppress(KeyboardInterrupt):
        print(f"http://{request.host}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
