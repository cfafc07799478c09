"""Serve a page where you draw a digit and see what the network computes.

    python -m lenet_dist.demo [--weights FILE] [--port N] [--host ADDRESS]

It is served to this machine only, unless --host says otherwise. Ctrl-C ends it.
"""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from importlib.util import find_spec
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
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise RequestError("the demo needs starlette and uvicorn: pip install 'lenet_dist[demo]'")
    _serve(_listen(request.host, request.port), request.weights)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "must be from 0 to 65535"
        where = "" if host == _ADDRESS else f"--host {host} "
        raise RequestError(f"{where}--port {port}: {reason}") from None
    return listener


def _serve(listener: socket.socket, weights_file: Path) -> None:
    import torch
    import uvicorn

    from lenet_dist.demo.server import HOSTS, application
    from lenet_dist.model import prediction, weights

    torch.set_num_threads(1)
    model = weights.read(weights_file).eval()
    host, port = listener.getsockname()
    hosts = HOSTS if host == _ADDRESS else ("*",)
    app = application(model, prediction.by(weights_file), hosts)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    # uvicorn hears Ctrl-C by itself, ends, and then raises it again.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        print(f"http://{host}:{port}/  (Ctrl-C ends it)", flush=True)
        server.run(sockets=[listener])
