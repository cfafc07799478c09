"""scripts/package-weights, as users type it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lenet_dist.config import Data
from lenet_dist.data import dataset, sampler
from lenet_dist.model import weights
from lenet_dist.model.prediction import SURE
from lenet_dist.predict import PRETRAINED
from lenet_dist.request import load
from tests.commands import command, succeeded
from tests.outcome import result
from tests.processes import ROOT, Job

pytestmark = pytest.mark.processes

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "package-weights"))
expected_calibration_error = SCRIPT["expected_calibration_error"]


def test_the_median_seeds_weights_get_the_temperature_that_fits_the_images_held_out(
    several: list[Path], uninterrupted: Job, tmp_path: Path
) -> None:
    seeds, held_out = [several[0], *several[2:4]], uninterrupted.directory
    out = tmp_path / "packaged"
    request = (*map(str, seeds), "--held-out", str(held_out), "--out", str(out))
    done = succeeded(command("python", "scripts/package-weights", *request))
    first, of_held_out, of_test, last = done.stdout.splitlines()
    packaged = out / "lenet5.safetensors"
    temperature = weights.temperature(packaged)
    median = sorted(seeds, key=lambda run: result(run)["test"]["accuracy"])[1]
    assert (first, last) == (f"{median}: temperature {temperature}", str(out))
    for line, count in ((of_held_out, 9500), (of_test, 2000)):
        assert re.fullmatch(rf"\S.*: {count} images, ECE 0\.\d{{4}} without, 0\.\d{{4}} with", line)

    model, original = weights.read(packaged), weights.read(median / "model.safetensors")
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    data = load(held_out / "config.yaml").data
    training = dataset.load(data, "train")
    _, ids = sampler.split(0, len(training), data.validation)
    with torch.no_grad():
        fitted = weights.read(held_out / "model.safetensors")
        logits = fitted(dataset.pixels(training.images[ids])).double()
    labels = training.labels[ids]
    at, milder, sharper = (
        float(F.cross_entropy(logits / (temperature * factor), labels))
        for factor in (1, 1.02, 0.98)
    )
    assert at < min(milder, sharper)

    card = " ".join((out / "README.md").read_text().split())
    test = result(median)["test"]
    accuracies = [100 * result(run)["test"]["accuracy"] for run in seeds]
    assert f"**Result**: {100 * test['accuracy']:.2f}% of the {test['count']:,} test images" in card
    assert f"All 3 seeds: {sum(accuracies) / 3:.3f}% ± " in card
    assert f"temperature {temperature}" in card and of_held_out in card and of_test in card
    assert result(median)["weights_sha256"] in card


def test_the_packages_own_probabilities_can_be_believed(mnist: Path) -> None:
    model, temperature = weights.read(PRETRAINED).eval(), weights.temperature(PRETRAINED)
    test = dataset.load(Data(root=str(mnist)), "test")
    probabilities = (SCRIPT["logits"](model, test) / temperature).softmax(1)
    assert expected_calibration_error(probabilities, test.labels) < 0.01
    probability, digit = probabilities.max(1)
    correct = digit == test.labels
    sure = probability >= SURE
    assert correct[sure].double().mean() > 0.99
    # What is called unsure is wrong often enough to be worth saying.
    assert correct[~sure].double().mean() < 0.8
