"""report.html over several runs, or very many lines."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from lenet_dist.report import page
from lenet_dist.run_dir import reader
from tests.outcome import result
from tests.pages import altered, page_of
from tests.processes import Job

pytestmark = pytest.mark.processes


def test_several_runs_are_grouped_by_config_with_the_spread_over_seeds(several: list[Path]) -> None:
    shown = page_of(*several)
    accuracies = [100 * result(path)["test"]["accuracy"] for path in (several[0], *several[2:4])]
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    lowest, highest = min(accuracies), max(accuracies)
    assert f"{mean:.2f} ± {deviation:.2f} 3 {lowest:.2f} {highest:.2f}" in shown
    assert "6 runs of LeNet-5, 3 configs" in shown
    assert "Config 1, seed 0 was run 2 times: the same weights to the last bit" in shown
    assert "train.batch_size 64 128 64" in shown
    assert "train.max_steps 20 20 60" in shown
    assert "log.every_steps" not in shown.partition("Runs")[0]
    assert re.search(r"unfinished 3 0 not complete: step \d+ of 60", shown)


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "0", "1e-300"])
def test_a_loss_that_no_axis_can_hold_is_left_out_and_the_rest_is_shown(
    uninterrupted: Job, tmp_path: Path, loss: str
) -> None:
    lines = [json.loads(line) for line in uninterrupted.directory.joinpath("metrics.jsonl").open()]
    lines[0]["loss"] = float(loss)
    metrics = "".join(json.dumps(line) + "\n" for line in lines)
    copy = altered(uninterrupted.directory, tmp_path, metrics=metrics, weights=None)
    for html in (page.of_run(reader.read(copy)), page.of_runs([reader.read(copy)] * 2)):
        assert html.count('src="data:image/svg+xml;base64,') >= 4


def test_a_page_of_many_runs_and_lines_is_small(uninterrupted: Job, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in uninterrupted.directory.joinpath("metrics.jsonl").open()]
    first = next(line for line in lines if line["kind"] == "train")
    many = [{**first, "step": step, "loss": 1 + step % 7 / 7} for step in range(1, 20_001)]
    metrics = "".join(json.dumps(line) + "\n" for line in many)
    copy = reader.read(altered(uninterrupted.directory, tmp_path, metrics=metrics))
    assert len(page.of_run(copy)) < 1_000_000
    assert len(page.of_runs([copy] * 20)) < 2_000_000
