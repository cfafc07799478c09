"""Predictions, as users ask for them; and whether their probabilities can be believed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from lenet_dist.config import Data
from lenet_dist.data import dataset
from lenet_dist.exits import RequestError
from lenet_dist.model import lenet5, weights
from lenet_dist.predict import PRETRAINED
from tests.commands import forked, loaded_by, refusal, user_environment
from tests.processes import PATIENCE, ROOT

pytestmark = pytest.mark.processes

PREDICT = "lenet_dist.predict"


@pytest.fixture(scope="module")
def pictures(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first five test images, a 7, a 2, a 1, a 0 and a 4, dark on white."""
    folder = tmp_path_factory.mktemp("pictures")
    test = dataset.load(Data(root=str(mnist)), "test")
    files = [folder / f"{number}.png" for number in range(5)]
    for file, image in zip(files, test.images, strict=False):
        Image.fromarray(255 - image.numpy()).resize((280, 280)).save(file)
    return files


def test_each_picture_gets_a_line_in_the_order_asked(pictures: list[Path]) -> None:
    done = forked(PREDICT, *map(str, pictures))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        f"{file}: {digit}" for file, digit in zip(pictures, "72104", strict=True)
    ]


def test_json_is_a_list_as_the_contract_has_it(pictures: list[Path]) -> None:
    named = [f"{file.parent}/./{file.name}" for file in reversed(pictures)]
    done = forked(PREDICT, "--json", *named)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [entry["image"] for entry in found] == named
    assert [entry["digit"] for entry in found] == [4, 0, 1, 2, 7]
    for entry in found:
        assert entry.keys() == {"image", "digit", "probability", "probabilities"}
        assert len(entry["probabilities"]) == 10
        assert sum(entry["probabilities"]) == pytest.approx(1)
        assert entry["probability"] == max(entry["probabilities"])
        assert entry["probability"] == entry["probabilities"][entry["digit"]]


def test_a_model_that_knows_nothing_is_unsure_and_says_so(
    pictures: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "untrained.safetensors"
    model = lenet5.build(0, 0.0, 1.0)
    file.write_bytes(weights.to_bytes(dict(model.state_dict()), 0.0, 1.0))
    done = forked(PREDICT, str(pictures[0]), "--weights", str(file))
    assert done.returncode == 0, done.stderr
    assert ", unsure: " in done.stdout


def test_the_files_temperature_makes_probabilities_milder(
    pictures: list[Path], tmp_path: Path
) -> None:
    probabilities = []
    for temperature in (1.0, 2.0):
        file = tmp_path / f"{temperature}.safetensors"
        model = lenet5.build(0, 0.0, 1.0)
        content = weights.to_bytes(dict(model.state_dict()), 0.0, 1.0, temperature)
        file.write_bytes(content)
        assert weights.temperature(file) == temperature
        done = forked(PREDICT, "--json", str(pictures[0]), "--weights", str(file))
        probabilities.append(torch.tensor(json.loads(done.stdout)[0]["probabilities"]))
    torch.testing.assert_close((probabilities[0].log() / 2).softmax(0), probabilities[1])


@pytest.mark.parametrize("name", ["temperature", "mean", "std"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", '"warm"', "null", "0", "-1"])
def test_a_file_whose_scale_or_temperature_is_no_such_number_is_refused_by_name(
    tmp_path: Path, name: str, value: str
) -> None:
    if name == "mean" and value in ("0", "-1"):
        return
    file = tmp_path / "w.safetensors"
    tensors = dict(lenet5.build(0, 0.0, 1.0).state_dict())
    file.write_bytes(safetensors.torch.save(tensors, {"lenet_dist": f'{{"{name}": {value}}}'}))
    with pytest.raises(RequestError, match=f"^{file}: "):
        weights.temperature(file) if name == "temperature" else weights.read(file)


def test_a_doubt_that_is_damaged_is_refused_by_name(pictures: list[Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(PRETRAINED, tmp_path))
    (tmp_path / "doubt.safetensors").write_bytes(file.read_bytes())
    said = refusal(forked(PREDICT, str(pictures[0]), "--weights", str(file)))
    assert f"{tmp_path}/doubt.safetensors: not the doubt's weights" in said


def test_weights_whose_logits_overflow_are_refused_by_name(
    pictures: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "great.safetensors"
    great = {name: 1e30 * w for name, w in lenet5.build(0, 0.0, 1.0).state_dict().items()}
    file.write_bytes(weights.to_bytes(great, 0.0, 1.0))
    done = forked(PREDICT, "--json", str(pictures[0]), "--weights", str(file))
    assert f"{file}: its logits are not finite" in refusal(done)
    done = forked("lenet_dist.evaluate", "--json", str(file), "data.name=synthetic")
    assert f"{file}: its loss is " in refusal(done)


def test_predicting_does_not_wait_for_what_training_needs(pictures: list[Path]) -> None:
    loaded = loaded_by(f"from lenet_dist import predict; predict.main(['{pictures[0]}'])")
    assert "PIL" in loaded
    assert not {"accelerate", "matplotlib", "torchvision", "wandb"} & loaded


def test_a_file_name_that_is_no_text_is_printed_as_it_is(
    pictures: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / os.fsdecode(b"d\xe9j\xe0.png")
    shutil.copy(pictures[0], file)
    done = subprocess.run(
        [sys.executable, "-m", PREDICT, file], cwd=ROOT, capture_output=True, check=False,
        env=user_environment({"PYTHONIOENCODING": "utf-8:strict"}), timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(os.fsencode(file) + b": 7 (")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "IMAGE"),
        (("nowhere.png",), "nowhere.png: no such file"),
        (("README.md",), "README.md: not a picture"),
        (("docs/benchmarks",), "docs/benchmarks: no pictures in this folder"),
        (("FIRST", "--weights", "README.md"), "README.md: not LeNet-5's weights"),
        (("FIRST", "--weights", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_a_wrong_request_is_one_line_and_nothing_is_predicted(
    pictures: list[Path], arguments: tuple[str, ...], named: str
) -> None:
    done = forked(PREDICT, *(a.replace("FIRST", str(pictures[0])) for a in arguments))
    assert named in refusal(done)


@pytest.fixture
def folder(pictures: list[Path], tmp_path: Path) -> Path:
    """A folder with two pictures, one that is damaged, and what is no picture."""
    shutil.copy(pictures[1], tmp_path / "b.png")
    shutil.copy(pictures[0], tmp_path / "c.PNG")
    (tmp_path / "a.jpg").write_bytes(pictures[0].read_bytes()[:100])
    (tmp_path / "notes.txt").write_text("Digits.")
    (tmp_path / ".hidden.png").touch()
    return tmp_path


def test_of_a_folder_each_picture_is_read_in_the_order_of_names(folder: Path) -> None:
    (folder / "a.jpg").unlink()
    done = forked(PREDICT, str(folder))
    assert done.returncode == 0, done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == [
        f"{folder}/b.png: 2", f"{folder}/c.PNG: 7",
    ]  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True])
def test_one_unreadable_picture_is_named_after_the_others_are_predicted(
    folder: Path, as_json: bool
) -> None:
    done = forked(PREDICT, str(folder), *(["--json"] if as_json else []))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder}/a.jpg: not a picture")
    assert done.stderr.count("\n") == 1
    if as_json:
        first, *others = json.loads(done.stdout)
        assert first.keys() == {"image", "error"}
        assert first["image"] == f"{folder}/a.jpg"
        assert first["error"].startswith("not a picture")
        assert [entry["digit"] for entry in others] == [2, 7]
    else:
        assert len(done.stdout.splitlines()) == 2
