"""TensorBoard: the run's lines as event files in RUN/tensorboard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lenet_dist.run_dir.lines import Line
from lenet_dist.track.tracker import Ending, rank_metrics


class TensorBoardTracker:
    """Rewrites all lines at each start: that costs nothing, and no line is there twice."""

    is_up_to_date = True

    def __init__(self, run: Path) -> None:
        self.lines = 0
        shutil.rmtree(run / "tensorboard", ignore_errors=True)
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, line: Line) -> None:
        for name in ("loss", "accuracy", "lr", "grad_norm", "samples_per_second", "skipped_steps"):
            if name in line:
                self._writer.add_scalar(f"{line['kind']}/{name}", line[name], line["step"])
        for name, value in rank_metrics(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self.lines += 1

    def finish(self, ending: Ending, result: dict[str, Any] | None) -> None:
        self._writer.close()
