"""scripts/calibrate, as users type it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lenet_dist.data import dataset, sampler
from lenet_dist.model import weights
from lenet_dist.request import load
from tests.commands import command
from tests.processes import Job

CALIBRATE = ("python", "scripts/calibrate")


def test_the_temperature_is_the_best_for_the_images_held_out(
    uninterrupted: Job, tmp_path: Path
) -> None:
    run, out = uninterrupted.directory, tmp_path / "calibrated.safetensors"
    done = command(*CALIBRATE, str(run), "--out", str(out))
    assert done.returncode == 0, done.stderr
    temperature = weights.temperature(out)
    first, held_out, test, last = done.stdout.splitlines()
    assert (first, last) == (f"temperature {temperature}", str(out))
    for line, count in ((held_out, 9500), (test, 2000)):
        assert re.fullmatch(rf"\S.*: {count} images, ECE 0\.\d{{4}} without, 0\.\d{{4}} with", line)

    model, original = weights.read(out), weights.read(run / "model.safetensors")
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    data = load(run / "config.yaml").data
    training = dataset.load(data, "train")
    _, ids = sampler.split(0, len(training), data.validation)
    with torch.no_grad():
        logits = model(dataset.pixels(training.images[ids])).double()
    labels = training.labels[ids]
    at, milder, sharper = (
        float(F.cross_entropy(logits / (temperature * factor), labels))
        for factor in (1, 1.02, 0.98)
    )
    assert at < min(milder, sharper)


def test_another_runs_weights_take_the_temperature_over(uninterrupted: Job, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain.safetensors", tmp_path / "calibrated.safetensors"
    tensors = dict(weights.read(uninterrupted.directory / "model.safetensors").state_dict())
    tensors["OUT.bias"] = tensors["OUT.bias"] + 1
    plain.write_bytes(weights.to_bytes(tensors, 0.0, 1.0))
    request = (str(uninterrupted.directory), "--weights", str(plain), "--out", str(out))
    done = command(*CALIBRATE, *request)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == weights.to_bytes(tensors, 0.0, 1.0, weights.temperature(out))


@pytest.mark.parametrize("wrong", ["file", "nothing held out", "no folder", "no weights"])
def test_a_wrong_request_is_one_line_and_writes_nothing(
    uninterrupted: Job, tmp_path: Path, wrong: str
) -> None:
    run, out = tmp_path / "run", tmp_path / "out.safetensors"
    run.mkdir()
    for name in ("model.safetensors", "config.yaml"):
        shutil.copy(uninterrupted.directory / name, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("validation: 9500", "validation: 0"))
    request, said = {
        "file": ((run / "model.safetensors", "--out", out), "name the run"),
        "nothing held out": ((run, "--out", out), "data.validation=0"),
        "no folder": ((run, "--out", tmp_path / "nowhere" / "out"), "--out"),
        "no weights": ((uninterrupted.directory, "--weights", "README.md", "--out", out), "README"),
    }[wrong]
    done = command(*CALIBRATE, *map(str, request))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not out.exists()
