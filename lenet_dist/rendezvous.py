"""Host the rendezvous of an elastic job's launchers, so that any of them may be lost.

    python -m lenet_dist.rendezvous [--port N]

Start it on a machine that outlives the job; it runs until it is killed. Start the launchers with
--rdzv-endpoint=THAT_MACHINE:N and --rdzv-conf=is_host=false,... (docs/elastic.md).
"""

from __future__ import annotations

import signal
import socket

from lenet_dist import exits
from lenet_dist.exits import RequestError

PORT = 29_400
"""torchrun's own default."""


def main(arguments: list[str]) -> None:
    """Serve until a signal ends the process."""
    parser = exits.ArgumentParser(prog="lenet_dist.rendezvous", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"where to listen (default {PORT})")
    request = parser.parse_args(arguments)
    if not 0 <= request.port < 2**16:
        raise RequestError(f"--port {request.port}: must be a port's number, 0 to 65535")
    from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(
            "localhost", request.port, is_master=True, wait_for_workers=False
        )  # It listens on every interface; localhost is only how this process reaches it.
    except DistNetworkError as error:
        raise RequestError(f"--port {request.port}: can't listen there: {error}") from None
    print(f"launchers can meet at {socket.gethostname()}:{store.port}", flush=True)
    signal.pause()


if __name__ == "__main__":
    exits.run(main)
