"""What a run prints: a bar on a terminal or in a notebook, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm.auto import tqdm

from lenet_dist.system import is_notebook

_PLAIN_LINE_SECONDS = 10.0


class Progress:
    """The main process's bar over a run's steps; the other processes are silent."""

    def __init__(self, *, is_main: bool, first_step: int, total_steps: int) -> None:
        self._is_main = is_main
        self._total_steps = total_steps
        self._last_line = time.monotonic()
        shows_bar = is_main and (sys.stderr.isatty() or is_notebook())
        self._bar: tqdm[Any] | None = (
            tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)
            if shows_bar
            else None
        )

    def advance(self) -> None:
        """Count one more step."""
        if self._bar is not None:
            self._bar.update()

    def show_train(self, line: dict[str, Any]) -> None:
        """Show a train line: on the bar, or as a plain line if the last one was long ago."""
        text = (
            f"loss {line['loss']:.4f}, accuracy {line['accuracy']:.2%},"
            f" {line['samples_per_second']:,.0f} images/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"step {line['step']}/{self._total_steps}, epoch {line['epoch']}: {text}")

    def show_evaluation(self, line: dict[str, Any]) -> None:
        """Show an evaluation's line."""
        self.say(
            f"epoch {line['epoch']}: {line['kind']} accuracy {line['accuracy']:.2%}"
            f" ({line['correct']:,} of {line['count']:,}), loss {line['loss']:.4f}"
        )

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._is_main:
            tqdm.write(text) if self._bar is not None else print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, above the bar."""
        if self._is_main:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
