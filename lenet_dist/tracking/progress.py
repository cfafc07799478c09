"""What the terminal shows: a bar where there is a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

_PLAIN_LINE_SECONDS = 10.0


class Progress:
    """The main process's bar over a run's steps; silent in the others."""

    def __init__(self, *, is_main: bool, first_step: int, total_steps: int) -> None:
        self._is_main = is_main
        self._total_steps = total_steps
        self._last_line = time.monotonic()
        shows_bar = is_main and sys.stderr.isatty()
        self._bar: tqdm[Any] | None = (
            tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)
            if shows_bar
            else None
        )

    def advance(self) -> None:
        """One step more is done."""
        if self._bar is not None:
            self._bar.update()

    def show_train(self, line: dict[str, Any]) -> None:
        """Show a train line: on the bar, or as a plain line if the last one is long ago."""
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
        """A line of its own, above the bar."""
        if self._is_main:
            tqdm.write(text) if self._bar is not None else print(text, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def result_table(result: dict[str, Any], run: Path, report: Path) -> str:
    """A run's result as the last thing it prints: two columns, label and value."""
    test, validation, seconds = result["test"], result["validation"], result["seconds"]
    rows = [
        ("test accuracy", f"{test['accuracy']:.2%} ({test['correct']:,} of {test['count']:,})"),
        ("test loss", f"{test['loss']:.4f}"),
        ("validation accuracy", f"{validation['accuracy']:.2%}" if validation else "none held out"),
        ("trained", f"{result['epochs']:g} epochs, {result['steps']:,} steps"),
        ("on", f"{result['world_size']} x {result['device']}, precision {result['precision']}"),
        ("speed", f"{result['samples_per_second']:,.0f} images/s"),
        ("time", f"{seconds['total']:.1f} s, {seconds['train']:.1f} s of it training"),
        ("weights", f"SHA-256 {result['weights_sha256'][:16]}..."),
        ("same bits", "promised" if result["bit_exact"] else "not promised"),
        ("run", str(run)),
        *([("report", str(report))] if report.exists() else []),
    ]
    return "\n".join(f"{label:>20}  {value}" for label, value in rows)
