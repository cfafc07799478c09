"""One self-contained HTML page over one run or several.

    python -m lenet_dist.report RUN                 writes RUN/report.html
    python -m lenet_dist.report RUN RUN...          writes report.html into this folder
    python -m lenet_dist.report RUN... --out FILE

It reads what the runs have left, and the data for pictures; it fetches nothing. A run that is not
complete is shown as far as it has come.
"""

from __future__ import annotations

import os
from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError


def main(arguments: list[str]) -> None:
    """Write the page as asked, and print where it is."""
    parser = exits.ArgumentParser(prog="lenet_dist.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run directory")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where the page goes")
    parser.add_argument(
        "--data", metavar="FOLDER", help="the images, if not in the runs' data.root seen from here"
    )
    request = parser.parse_args(arguments)
    single = len(request.runs) == 1
    out = request.out or (request.runs[0] if single else Path()) / "report.html"
    from lenet_dist.reporting import page, run

    runs = [run.read(path) for path in request.runs]
    _check(out)
    print(page.write(runs, out, request.data))


def _check(out: Path) -> None:
    """Raises RequestError if a file can't be written there."""
    if out.is_dir():
        raise RequestError(f"--out {out}: is a folder; name the file")
    if not out.parent.is_dir():
        raise RequestError(f"--out {out}: {out.parent} is no folder")
    if not os.access(out.parent, os.W_OK):
        raise RequestError(f"--out {out}: can't write into {out.parent}; name another place")


if __name__ == "__main__":
    exits.run(main)
