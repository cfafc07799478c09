"""Write one self-contained HTML page about one or more runs.

    python -m lenet_dist.report RUN                 writes RUN/report.html
    python -m lenet_dist.report RUN RUN...          writes report.html into this folder
    python -m lenet_dist.report RUN... --out FILE
    python -m lenet_dist.report RUN... --wandb ENTITY/PROJECT       and a W&B Report

It reads the run directories, and the data for pictures; it downloads nothing. An incomplete run is
shown as far as it has come. A W&B Report shows what W&B has of the same runs; publishing it again
updates it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.files import check_file_can_be_written


def main(arguments: list[str]) -> None:
    """Write the page as asked, and print where it is."""
    parser = exits.ArgumentParser(prog="lenet_dist.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run directory")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write the page")
    parser.add_argument(
        "--data", metavar="FOLDER", help="folder of the data, if it is not the runs' data.root"
    )
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="publish or update a W&B Report there"
    )
    request = parser.parse_args(arguments)
    if request.wandb:
        if find_spec("wandb_workspaces") is None:
            raise RequestError(
                "--wandb needs the package wandb-workspaces: pip install 'lenet_dist[workspaces]'"
            )
        from lenet_dist.report import wandb_report

        entity, project = wandb_report.parse_project(request.wandb)
    out = request.out or (request.runs[0] if len(request.runs) == 1 else Path()) / "report.html"
    import torch

    from lenet_dist.report import page
    from lenet_dist.run_dir import reader

    # Two threads gain little here, and beside a run that uses the cores they wait for each other.
    torch.set_num_threads(1)
    runs = [reader.read(path) for path in request.runs]
    check_file_can_be_written("--out", out)
    print(page.write(runs, out, request.data), flush=True)
    if request.wandb:
        print(wandb_report.publish(runs, entity, project))
