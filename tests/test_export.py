"""The model for other programs: each format written by the command, and read back by its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from torch import Tensor

from lenet_dist.config import Data
from lenet_dist.data import dataset
from lenet_dist.model import lenet5, weights
from lenet_dist.model.hub import HubLeNet5
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.predict import PRETRAINED
from tests.commands import command, forked, refusal
from tests.outcome import result
from tests.processes import ROOT, Job, Jobs

pytestmark = pytest.mark.processes

EXPORT = "lenet_dist.export"
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


@pytest.fixture(scope="module")
def programs(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in the formats that take seconds to write, each alone in a folder."""
    forms = {"torch-export": "lenet5.pt2", "onnx": "lenet5.onnx"}
    return {
        form: exported(file, form, tmp_path_factory.mktemp("program") / name)
        for form, name in forms.items()
    }


def pixels(count: int) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))


def exported(target: Path, form: str, out: Path) -> Path:
    done = forked(EXPORT, str(target), "--format", form, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (f"{out}\n", "")
    return out


def refused(*arguments: str) -> str:
    """The one line that a refused request gets."""
    return refusal(forked(EXPORT, *arguments))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_safetensors_are_the_files_own_bytes(
    model: LeNet5, tmp_path: Path, temperature: float
) -> None:
    file = tmp_path / "model.safetensors"
    state = dict(model.state_dict())
    file.write_bytes(weights.to_bytes(state, model.mean, model.std, temperature))
    out = exported(file, "safetensors", tmp_path / "exported.safetensors")
    assert out.read_bytes() == file.read_bytes()
    assert torch.equal(weights.read(out)(pixels(7)), model(pixels(7)))


READ_WITHOUT_LENET_DIST = """
import sys, torch
sys.modules["lenet_dist"] = None  # As if it were not installed.
torch.set_num_threads(1)
program = torch.export.load(sys.argv[1]).module()
for count in (1, 7, 64):
    images = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))
    torch.save(program(images).detach(), f"{sys.argv[2]}/{count}.pt")
"""


def test_a_torch_export_gives_the_logits_where_lenet_dist_is_not_installed(
    programs: dict[str, Path], model: LeNet5, tmp_path: Path
) -> None:
    out = programs["torch-export"]
    reader = [sys.executable, "-c", READ_WITHOUT_LENET_DIST, str(out), str(tmp_path)]
    subprocess.run(reader, cwd=tmp_path, check=True, timeout=120)
    for count in COUNTS:
        logits = torch.load(tmp_path / f"{count}.pt")
        # Asked for a gradient of its pixels, the model goes through torch's own layers, as the
        # program does; else through its passes written out, which round elsewhere.
        layers = model(pixels(count).requires_grad_()).detach()
        assert torch.equal(logits, layers)
        torch.testing.assert_close(logits, model(pixels(count)).detach(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_onnx_gives_the_logits_to_1e_5(programs: dict[str, Path], model: LeNet5) -> None:
    out = programs["onnx"]
    assert list(out.parent.iterdir()) == [out], "it is one file"
    session = onnxruntime.InferenceSession(str(out))
    for count in COUNTS:
        (logits,) = session.run(["logits"], {"pixels": pixels(count).numpy()})
        assert np.abs(logits - model(pixels(count)).numpy()).max() <= 1e-5


@torch.no_grad()
def test_onnx_of_trained_weights_gives_the_logits_of_digits_to_1e_5(tmp_path: Path) -> None:
    # A trained model's logits are larger, and so are their last bits.
    out = exported(PRETRAINED, "onnx", tmp_path / "lenet5.onnx")
    digits = dataset.pixels(dataset.load(Data(name="synthetic"), "test").images)
    expected = weights.read(PRETRAINED)(digits).numpy()
    assert np.abs(expected).max() > 5
    (logits,) = onnxruntime.InferenceSession(str(out)).run(None, {"pixels": digits.numpy()})
    assert np.abs(logits - expected).max() <= 1e-5


def test_onnx_says_what_it_takes_and_gives(programs: dict[str, Path]) -> None:
    out = programs["onnx"]
    onnx.checker.check_model(onnx.load(out), full_check=True)
    session = onnxruntime.InferenceSession(str(out))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == (
        "pixels",
        "tensor(float)",
        ["images", 1, 28, 28],
    )
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["images", 10])


@pytest.mark.parametrize("form", ["torch-export", "onnx"])
def test_a_program_names_no_folder_of_the_machine_it_was_made_on(
    programs: dict[str, Path], file: Path, form: str
) -> None:
    out = programs[form].read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent, file.parent):
        assert str(folder).encode() not in out


@torch.no_grad()
def test_a_hub_folder_gives_the_same_bits(file: Path, model: LeNet5, tmp_path: Path) -> None:
    out = exported(file, "hub", tmp_path / "hub")
    again = HubLeNet5.from_pretrained(str(out))
    for count in COUNTS:
        assert torch.equal(again(pixels(count)), model(pixels(count)))
    assert (out / "model.safetensors").read_bytes() == file.read_bytes()


@torch.no_grad()
def test_what_the_hubs_class_saves_it_loads_again(model: LeNet5, tmp_path: Path) -> None:
    saved = HubLeNet5(model.mean, model.std)
    saved.load_state_dict(model.state_dict())
    saved.save_pretrained(tmp_path)
    again = HubLeNet5.from_pretrained(str(tmp_path))
    assert torch.equal(again(pixels(7)), model(pixels(7)))


def test_a_card_of_weights_alone_claims_no_measurement(file: Path, tmp_path: Path) -> None:
    card = ModelCard.load(exported(file, "hub", tmp_path / "hub") / "README.md").data
    assert (card.license, card.library_name) == ("mit", "lenet_dist")
    assert card.pipeline_tag == "image-classification"
    assert {"lenet-5", "mnist", "pytorch_model_hub_mixin"} <= set(card.tags)
    assert (card.metrics, card.datasets, card.eval_results) == (None, None, None)


def test_a_runs_card_says_what_it_has_measured(jobs: Jobs, tmp_path: Path) -> None:
    run = jobs.run("train.max_steps=10").directory
    out = exported(run, "hub", tmp_path / "hub")
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    card, test = ModelCard.load(out / "README.md"), result(run)["test"]
    assert f"{test['accuracy']:.2%}" in card.text and result(run)["weights_sha256"] in card.text
    assert card.data.datasets is None, "what is made from counters, the hub does not have"


def test_a_card_of_a_run_on_mnist_tells_the_hub_its_accuracy(
    uninterrupted: Job, tmp_path: Path
) -> None:
    run = as_if_on("mnist", uninterrupted.directory, tmp_path / "run")
    card = ModelCard.load(exported(run, "hub", tmp_path / "hub") / "README.md").data
    assert (card.datasets, card.metrics) == (["ylecun/mnist"], ["accuracy"])
    (measured,) = card.eval_results
    assert measured.metric_value == result(run)["test"]["accuracy"]
    assert (measured.dataset_type, measured.dataset_split) == ("ylecun/mnist", "test")


def as_if_on(data: str, run: Path, copy: Path) -> Path:
    """The same run, but for the data that its config names: training on MNIST would take long."""
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("name: synthetic", f"name: {data}"))
    assert f"name: {data}" in config.read_text()
    return copy


def test_a_card_does_not_praise_other_weights_than_were_measured(
    uninterrupted: Job, file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted.directory, run)
    shutil.copy(file, run / "model.safetensors")
    out = tmp_path / "hub"
    said = refused(str(run), "--format", "hub", "--out", str(out))
    assert f"{run / 'model.safetensors'}: not the weights" in said
    assert not out.exists()


def test_what_this_command_has_made_is_replaced(file: Path, tmp_path: Path) -> None:
    for form in ("hub", "safetensors"):
        out = exported(PRETRAINED, form, tmp_path / form)
        exported(file, form, out)
        written = out / "model.safetensors" if form == "hub" else out
        assert written.read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "safetensors"]


def test_an_empty_folder_is_taken_for_the_hub(file: Path, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    assert len(content(exported(file, "hub", tmp_path / "hub"))) == 3


OTHER_FOLDERS = {
    "a readme alone": {"README.md": b"mine"},
    "another project's model": {
        "README.md": b"---\nlibrary_name: transformers\n---\n",
        "config.json": json.dumps({"model_type": "bert"}).encode(),
        "model.safetensors": b"",
    },
}


@pytest.mark.parametrize("kind", OTHER_FOLDERS)
def test_a_folder_with_anything_else_in_it_is_left_as_it_is(
    file: Path, tmp_path: Path, kind: str
) -> None:
    for name, text in OTHER_FOLDERS[kind].items():
        (tmp_path / name).write_bytes(text)
    said = refused(str(file), "--format", "hub", "--out", str(tmp_path))
    assert str(tmp_path) in said
    assert content(tmp_path) == OTHER_FOLDERS[kind]


def test_an_export_with_a_file_added_to_it_is_left_as_it_is(file: Path, tmp_path: Path) -> None:
    out = exported(PRETRAINED, "hub", tmp_path / "hub")
    (out / "notes.txt").write_text("mine")
    before = content(out)
    refused(str(file), "--format", "hub", "--out", str(out))
    assert content(out) == before


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_the_weights_are_not_written_over_by_their_own_export(
    file: Path, tmp_path: Path, form: str
) -> None:
    own, link = tmp_path / "own.safetensors", tmp_path / "link.safetensors"
    shutil.copy(file, own)
    link.symlink_to(own)
    for out in (own, link):
        assert "the weights file itself" in refused(str(own), "--format", form, "--out", str(out))
    assert own.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("form", ["hub", "onnx"])
def test_a_full_disk_is_a_reason_and_leaves_what_was_there(
    file: Path, tmp_path: Path, form: str
) -> None:
    out = exported(PRETRAINED, form, tmp_path / "out")
    before = content(out) if form == "hub" else out.read_bytes()
    # A file that may not grow beyond 100 blocks of 1024 bytes is what a disk without room is.
    export = f"ulimit -f 100; exec {sys.executable} -m lenet_dist.export"
    done = command("bash", "-c", f"{export} {file} --format {form} --out {out}")
    assert done.returncode == 1
    assert done.stderr == f"failed: can't write {out}: File too large\n"
    assert before == (content(out) if form == "hub" else out.read_bytes())
    assert list(tmp_path.iterdir()) == [out], "nothing half-written is left"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nowhere", "--format", "onnx", "--out", "x.onnx"), "nowhere: no such run"),
        (("configs", "--format", "onnx", "--out", "x.onnx"), "configs: not a run"),
        (("README.md", "--format", "onnx", "--out", "x.onnx"), "README.md: not LeNet-5's weights"),
        (("FILE", "--format", "pickle", "--out", "x"), "pickle"),
        (("FILE", "--format", "onnx"), "--out"),
        (("FILE", "--out", "x.onnx"), "--format"),
        (("FILE", "--format", "onnx", "--out", "nowhere/x.onnx"), "--out nowhere/x.onnx: nowhere"),
        (("FILE", "--format", "hub", "--out", "nowhere/hub"), "--out nowhere/hub: nowhere"),
        (("FILE", "--format", "onnx", "--out", "configs"), "--out configs: is a folder"),
        (("FILE", "--format", "hub", "--out", "configs"), "--out configs: holds something else"),
        (("FILE", "--format", "hub", "--out", "README.md"), "--out README.md: is a file"),
        (("FILE", "--format", "hub", "--out", "."), "--out .: is the current directory"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    file: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert named in refused(*(a.replace("FILE", str(file)) for a in arguments))


def test_a_run_that_is_not_complete_is_refused(uninterrupted: Job, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted.directory, run)
    (run / "model.safetensors").unlink()
    said = refused(str(run), "--format", "onnx", "--out", str(tmp_path / "x.onnx"))
    assert f"{run}: this run is not complete" in said


def test_weights_that_are_not_those_of_the_runs_result_are_refused(
    uninterrupted: Job, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted.directory, run)
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(content)
    said = refused(str(run), "--format", "onnx", "--out", str(tmp_path / "x.onnx"))
    assert f"{run / 'model.safetensors'}: not the weights of {run / 'result.json'}" in said


def test_onnx_without_its_packages_says_which(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "lenet5.onnx"
    # A package that is there and can't be found is what a missing one looks like.
    hide = "import sys; sys.modules['onnxscript'] = None; import runpy;"
    run = f"{hide} runpy.run_module('lenet_dist.export', run_name='__main__')"
    done = command("python", "-c", run, str(file), "--format", "onnx", "--out", str(out))
    assert done.returncode == 2, done.stderr
    assert "pip install 'lenet_dist[onnx]'" in done.stderr
    assert not out.exists()
