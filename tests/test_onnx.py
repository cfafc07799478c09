"""The model as an ONNX file: written by the command, read back by onnx and onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from lenet_dist.config import Data
from lenet_dist.data import dataset
from lenet_dist.model import weights
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.predict import PRETRAINED
from tests.commands import command
from tests.exporting import COUNTS, exported, pixels

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def program(scaled_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model, alone in a folder."""
    return exported(scaled_file, "onnx", tmp_path_factory.mktemp("program") / "lenet5.onnx")


@torch.no_grad()
def test_it_gives_the_logits_of_any_number_of_images_to_1e_5_and_says_what_it_takes(
    program: Path, scaled_model: LeNet5
) -> None:
    assert list(program.parent.iterdir()) == [program], "it is one file"
    session = onnxruntime.InferenceSession(str(program))
    for count in (0, *COUNTS, 10_000):
        (logits,) = session.run(["logits"], {"pixels": pixels(count).numpy()})
        assert logits.shape == (count, 10)
        assert np.abs(logits - scaled_model(pixels(count)).numpy()).max(initial=0) <= 1e-5
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == (
        "pixels",
        "tensor(float)",
        ["images", 1, 28, 28],
    )
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["images", 10])


@torch.no_grad()
@pytest.mark.parametrize("opset", [9, 13, onnx.defs.onnx_opset_version()])
def test_it_is_of_the_opset_asked_for_in_the_oldest_format_that_has_it(
    scaled_file: Path, scaled_model: LeNet5, tmp_path: Path, opset: int
) -> None:
    asked = () if opset == 13 else ("--opset", str(opset))
    made = onnx.load(exported(scaled_file, "onnx", tmp_path / "lenet5.onnx", *asked))
    onnx.checker.check_model(made, full_check=True)
    assert [entry.version for entry in made.opset_import] == [opset]
    assert made.ir_version == onnx.helper.find_min_ir_version_for(list(made.opset_import))
    if opset == 13:
        assert made.ir_version == 7, "what runtimes have read since 2020"
    # The newest opset may be newer than the runtime's.
    again = ReferenceEvaluator(made)
    (logits,) = again.run(None, {"pixels": pixels(7).numpy()})
    assert np.abs(logits - scaled_model(pixels(7)).numpy()).max() <= 1e-5


@torch.no_grad()
def test_trained_weights_give_the_logits_of_digits_to_1e_5(tmp_path: Path) -> None:
    # A trained model's logits are larger, and so are their last bits.
    out = exported(PRETRAINED, "onnx", tmp_path / "lenet5.onnx")
    digits = dataset.pixels(dataset.load(Data(name="synthetic"), "test").images)
    expected = weights.read(PRETRAINED)(digits).numpy()
    assert np.abs(expected).max() > 5
    (logits,) = onnxruntime.InferenceSession(str(out)).run(None, {"pixels": digits.numpy()})
    assert np.abs(logits - expected).max() <= 1e-5


def test_without_its_package_the_command_says_which(scaled_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "lenet5.onnx"
    # A package that is there and can't be found is what a missing one looks like.
    hide = "import sys; sys.modules['onnx'] = None; import runpy;"
    run = f"{hide} runpy.run_module('lenet_dist.export', run_name='__main__')"
    done = command("python", "-c", run, str(scaled_file), "--format", "onnx", "--out", str(out))
    assert done.returncode == 2, done.stderr
    assert "pip install 'lenet_dist[onnx]'" in done.stderr
    assert not out.exists()
