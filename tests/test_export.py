"""The model for other programs: each format written by the command, and read back by its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from lenet_dist.model import lenet5, weights
from lenet_dist.model.hub import HubLeNet5
from lenet_dist.model.lenet5 import LeNet5
from tests.processes import Job, command, result

EXPORT = ("python", "-m", "lenet_dist.export")
COUNTS = (1, 7, 64)


@pytest.fixture(scope="module")
def model() -> LeNet5:
    return lenet5.build(3, 0.13, 0.31).eval()


@pytest.fixture(scope="module")
def file(model: LeNet5, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's weights file."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    path.write_bytes(weights.to_bytes(dict(model.state_dict()), model.mean, model.std))
    return path


def pixels(count: int) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))


def exported(file: Path, form: str, out: Path) -> Path:
    done = command(*EXPORT, str(file), "--format", form, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    return out


def test_safetensors_are_the_files_own_bytes(file: Path, tmp_path: Path) -> None:
    out = exported(file, "safetensors", tmp_path / "weights.safetensors")
    assert out.read_bytes() == file.read_bytes()


READ_WITHOUT_LENET_DIST = """
import sys, torch
sys.modules["lenet_dist"] = None  # As if it were not installed.
program = torch.export.load(sys.argv[1]).module()
for count in (1, 7, 64):
    images = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))
    torch.save(program(images), f"{sys.argv[2]}/{count}.pt")
"""


@torch.no_grad()
def test_a_torch_export_gives_the_logits_where_lenet_dist_is_not_installed(
    file: Path, model: LeNet5, tmp_path: Path
) -> None:
    out = exported(file, "torch-export", tmp_path / "lenet5.pt2")
    reader = [sys.executable, "-c", READ_WITHOUT_LENET_DIST, str(out), str(tmp_path)]
    subprocess.run(reader, cwd=tmp_path, check=True, timeout=120)
    for count in COUNTS:
        # Torch's own layers instead of the written-out passes: the same to rounding.
        logits = torch.load(tmp_path / f"{count}.pt")
        torch.testing.assert_close(logits, model(pixels(count)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_onnx_gives_the_logits_to_1e_5(file: Path, model: LeNet5, tmp_path: Path) -> None:
    out = exported(file, "onnx", tmp_path / "lenet5.onnx")
    assert list(tmp_path.iterdir()) == [out], "it is one file"
    session = onnxruntime.InferenceSession(str(out))
    for count in COUNTS:
        (logits,) = session.run(["logits"], {"pixels": pixels(count).numpy()})
        assert np.abs(logits - model(pixels(count)).numpy()).max() <= 1e-5


@torch.no_grad()
def test_a_hub_folder_gives_the_same_bits(file: Path, model: LeNet5, tmp_path: Path) -> None:
    out = exported(file, "hub", tmp_path / "hub")
    again = HubLeNet5.from_pretrained(str(out)).eval()
    for count in COUNTS:
        assert torch.equal(again(pixels(count)), model(pixels(count)))
    assert (out / "README.md").read_text().startswith("---\nlicense: mit\n")
    assert exported(file, "hub", out) == out, "its own folder is replaced"


def test_a_runs_card_says_what_it_has_measured(uninterrupted: Job, tmp_path: Path) -> None:
    out = exported(uninterrupted.directory, "hub", tmp_path / "hub")
    assert (out / "model.safetensors").read_bytes() == (
        uninterrupted.directory / "model.safetensors"
    ).read_bytes()
    measured = result(uninterrupted.directory)
    card = (out / "README.md").read_text()
    assert f"{measured['test']['accuracy']:.2%}" in card and measured["weights_sha256"] in card


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nowhere", "--format", "onnx", "--out", "x.onnx"), "nowhere: no such run"),
        (("configs", "--format", "onnx", "--out", "x.onnx"), "configs: not a run"),
        (("README.md", "--format", "onnx", "--out", "x.onnx"), "README.md"),
        (("FILE", "--format", "pickle", "--out", "x"), "pickle"),
        (("FILE", "--format", "onnx"), "--out"),
        (("FILE", "--format", "onnx", "--out", "nowhere/x.onnx"), "nowhere"),
        (("FILE", "--format", "onnx", "--out", "configs"), "configs"),
        (("FILE", "--format", "hub", "--out", "configs"), "configs"),
        (("FILE", "--format", "hub", "--out", "README.md"), "README.md"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    file: Path, arguments: tuple[str, ...], named: str
) -> None:
    done = command(*EXPORT, *(a.replace("FILE", str(file)) for a in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_onnx_without_its_packages_says_which(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "lenet5.onnx"
    # A package that is there and can't be found is what a missing one looks like.
    hide = "import sys; sys.modules['onnxscript'] = None; import runpy;"
    run = f"{hide} runpy.run_module('lenet_dist.export', run_name='__main__')"
    done = command("python", "-c", run, str(file), "--format", "onnx", "--out", str(out))
    assert done.returncode == 2, done.stderr
    assert "pip install 'lenet_dist[onnx]'" in done.stderr
    assert not out.exists()
