"""The model for other programs: each format written by the command, and read back by its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from lenet_dist.model import weights
from lenet_dist.model.hub import HubLeNet5
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.predict import PRETRAINED
from tests.commands import forked, refusal
from tests.exporting import COUNTS, EXPORT, exported, pixels
from tests.outcome import result
from tests.processes import ROOT, Job

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def programs(scaled_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in the formats that are programs."""
    folder = tmp_path_factory.mktemp("programs")
    return {form: exported(scaled_file, form, folder / form) for form in ("torch-export", "onnx")}


def refused(*arguments: str) -> str:
    """The one line that a refused request gets."""
    return refusal(forked(EXPORT, *arguments))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_safetensors_are_the_files_own_bytes(
    scaled_model: LeNet5, tmp_path: Path, temperature: float
) -> None:
    file = tmp_path / "model.safetensors"
    state = dict(scaled_model.state_dict())
    file.write_bytes(weights.to_bytes(state, scaled_model.mean, scaled_model.std, temperature))
    out = exported(file, "safetensors", tmp_path / "exported.safetensors")
    assert out.read_bytes() == file.read_bytes()
    assert torch.equal(weights.read(out)(pixels(7)), scaled_model(pixels(7)))


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
    programs: dict[str, Path], scaled_model: LeNet5, tmp_path: Path
) -> None:
    out = programs["torch-export"]
    reader = [sys.executable, "-c", READ_WITHOUT_LENET_DIST, str(out), str(tmp_path)]
    subprocess.run(reader, cwd=tmp_path, check=True, timeout=120)
    for count in COUNTS:
        logits = torch.load(tmp_path / f"{count}.pt")
        assert torch.equal(logits, scaled_model(pixels(count)).detach())


@pytest.mark.parametrize("form", ["torch-export", "onnx"])
def test_a_program_names_no_folder_of_the_machine_it_was_made_on(
    programs: dict[str, Path], scaled_file: Path, form: str
) -> None:
    out = programs[form].read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent, scaled_file.parent):
        assert str(folder).encode() not in out


@torch.no_grad()
def test_a_hub_folder_has_its_bits(scaled_file: Path, scaled_model: LeNet5, tmp_path: Path) -> None:
    out = exported(scaled_file, "hub", tmp_path / "hub")
    again = HubLeNet5.from_pretrained(str(out))
    for count in COUNTS:
        assert torch.equal(again(pixels(count)), scaled_model(pixels(count)))
    assert (out / "model.safetensors").read_bytes() == scaled_file.read_bytes()


def test_a_card_of_weights_alone_claims_no_measurement(scaled_file: Path, tmp_path: Path) -> None:
    card = ModelCard.load(exported(scaled_file, "hub", tmp_path / "hub") / "README.md").data
    assert (card.license, card.library_name) == ("mit", "lenet_dist")
    assert card.pipeline_tag == "image-classification"
    assert {"lenet-5", "mnist", "pytorch_model_hub_mixin"} <= set(card.tags)
    assert (card.metrics, card.datasets, card.eval_results) == (None, None, None)


def test_a_runs_card_says_what_it_has_measured(uninterrupted: Job, tmp_path: Path) -> None:
    run = uninterrupted.directory
    out = exported(run, "hub", tmp_path / "hub")
    assert (out / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    card, test = ModelCard.load(out / "README.md"), result(run)["test"]
    assert f"{test['accuracy']:.2%}" in card.text and result(run)["weights_sha256"] in card.text
    assert card.data.datasets is None, "what is made from counters, the hub does not have"


def test_a_card_of_a_run_on_mnist_has_its_accuracy(uninterrupted: Job, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted.directory, tmp_path / "run")
    # The same run, but for the data that its config names: training on MNIST would take long.
    config = (run / "config.yaml").read_text().replace("name: synthetic", "name: mnist")
    (run / "config.yaml").write_text(config)
    card = ModelCard.load(exported(run, "hub", tmp_path / "hub") / "README.md").data
    assert (card.datasets, card.metrics) == (["ylecun/mnist"], ["accuracy"])
    (measured,) = card.eval_results
    assert measured.metric_value == result(run)["test"]["accuracy"]
    assert (measured.dataset_type, measured.dataset_split) == ("ylecun/mnist", "test")


def test_an_empty_folder_and_what_this_command_has_made_are_replaced(
    scaled_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub").mkdir()
    for form in ("hub", "safetensors"):
        out = exported(PRETRAINED, form, tmp_path / form)
        exported(scaled_file, form, out)
        written = out / "model.safetensors" if form == "hub" else out
        assert written.read_bytes() == scaled_file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "safetensors"]
    assert len(content(tmp_path / "hub")) == 3


OTHER_FOLDERS = {
    "a readme alone": {"README.md": b"mine"},
    "an export with a file added to it": {"notes.txt": b"mine"},
    "another project's model": {
        "README.md": b"---\nlibrary_name: transformers\n---\n",
        "config.json": json.dumps({"model_type": "bert"}).encode(),
        "model.safetensors": b"",
    },
}


@pytest.mark.parametrize("kind", OTHER_FOLDERS)
def test_a_folder_with_anything_else_in_it_is_left_as_it_is(
    scaled_file: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "an export with a file added to it":
        exported(PRETRAINED, "hub", tmp_path)
    for name, text in OTHER_FOLDERS[kind].items():
        (tmp_path / name).write_bytes(text)
    before = content(tmp_path)
    assert str(tmp_path) in refused(str(scaled_file), "--format", "hub", "--out", str(tmp_path))
    assert content(tmp_path) == before


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_the_weights_are_not_written_over_by_their_own_export(
    scaled_file: Path, tmp_path: Path, form: str
) -> None:
    own, link = tmp_path / "own.safetensors", tmp_path / "link.safetensors"
    shutil.copy(scaled_file, own)
    link.symlink_to(own)
    for out in (own, link):
        assert "the weights file itself" in refused(str(own), "--format", form, "--out", str(out))
    assert own.read_bytes() == scaled_file.read_bytes()


@pytest.mark.parametrize("form", ["hub", "onnx"])
def test_a_full_disk_is_a_reason_and_leaves_what_was_there(
    scaled_file: Path, tmp_path: Path, form: str
) -> None:
    out = exported(PRETRAINED, form, tmp_path / "out")
    before = content(out) if form == "hub" else out.read_bytes()
    asked = (str(scaled_file), "--format", form, "--out", str(out))
    done = forked("tests.altered:export_with_little_room", *asked)
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
        (("FILE", "--format", "onnx", "--opset", "8", "--out", "x"), "--opset 8: must be 9 to "),
        (("FILE", "--format", "onnx", "--opset", "99", "--out", "x"), "--opset 99: must be 9 to "),
        (("FILE", "--format", "hub", "--opset", "13", "--out", "x"), "--opset 13: only for"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    scaled_file: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert named in refused(*(a.replace("FILE", str(scaled_file)) for a in arguments))


def test_a_run_that_is_not_complete_is_refused(uninterrupted: Job, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted.directory, tmp_path / "run")
    (run / "model.safetensors").unlink()
    said = refused(str(run), "--format", "onnx", "--out", str(tmp_path / "x.onnx"))
    assert f"{run}: this run is not complete" in said


def test_weights_that_are_not_those_of_the_runs_result_are_refused(
    uninterrupted: Job, scaled_file: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(uninterrupted.directory, tmp_path / "run")
    shutil.copy(scaled_file, run / "model.safetensors")
    said = refused(str(run), "--format", "hub", "--out", str(tmp_path / "out"))
    assert f"{run / 'model.safetensors'}: not the weights of {run / 'result.json'}" in said
    assert not (tmp_path / "out").exists()
