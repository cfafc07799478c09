"""The commands, as users type them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from lenet_dist.config import keys
from lenet_dist.kernels import native
from tests.commands import LaunchedJobs, command, forked, succeeded
from tests.outcome import outcome, result
from tests.processes import ROOT, SMALL, Job, free_port

pytestmark = pytest.mark.processes

TRAIN = ("-m", "lenet_dist.train")
LAUNCH_FILES = ("cpu", "gpu", "gpus", "nodes")


def place(folder: Path) -> tuple[str, str]:
    return f"run.root={folder}", "run.name=run"


@pytest.mark.parametrize(
    "launcher",
    [
        ("accelerate", "launch", "--cpu", "--num_processes", "2"),
        ("accelerate", "launch", "--config_file", "configs/launch/gpus.yaml"),
        ("mpirun", "--oversubscribe", "-n", "2", sys.executable),
    ],
)
def test_every_launcher_gives_the_same_bits(
    uninterrupted: Job, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    if launcher[0] == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("needs Open MPI")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    asked = (*TRAIN, *SMALL, *place(tmp_path))
    done = succeeded(command(*launcher, *asked, environment=as_root))
    assert outcome(tmp_path / "run") == outcome(uninterrupted.directory)
    starts_two = {"mpirun", "configs/launch/gpus.yaml"} & {*launcher}
    assert result(tmp_path / "run")["world_size"] == (2 if starts_two else 1)
    if "--cpu" in launcher:
        assert "--num_processes 2 started one process: with --cpu it starts no more" in done.stderr


def test_two_machines_by_the_launch_file_give_the_same_bits(
    uninterrupted: Job, launched: LaunchedJobs
) -> None:
    # Both are this one: each launcher knows only its own rank, the first machine and the port.
    where = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()))
    launch = ("accelerate", "launch", "--config_file", "configs/launch/nodes.yaml", *where)
    nodes = [
        launched.start(*launch, "--machine_rank", rank, *TRAIN, "train.max_steps=60", log=rank)
        for rank in ("0", "1")
    ]
    for node in nodes:
        node.wait_for_everyone()
        assert node.process.returncode == 0, node.text()
    assert result(nodes[0].directory)["world_size"] == 2
    assert outcome(nodes[0].directory) == outcome(uninterrupted.directory)


def test_the_files_for_accelerate_launch_are_these_and_load() -> None:
    files = {file.stem: load_config_from_file(str(file))
             for file in (ROOT / "configs" / "launch").glob("*.yaml")}  # fmt: skip
    assert sorted(files) == sorted(LAUNCH_FILES)
    assert [files[name].num_machines for name in LAUNCH_FILES] == [1, 1, 1, 2]
    assert {file.mixed_precision for file in files.values()} == {"no"}


def test_help_lists_every_key_and_is_quick() -> None:
    shown = command("python", *TRAIN, "--help", seconds=60)
    assert shown.returncode == 0
    for key in keys():
        assert f"  {key.name} " in shown.stdout
        assert key.help in shown.stdout


def test_python_alone_runs_one_process_prints_plain_lines_and_ends_in_a_table(
    uninterrupted: Job, tmp_path: Path
) -> None:
    done = succeeded(command("python", *TRAIN, *SMALL, *place(tmp_path)))
    assert outcome(tmp_path / "run") == outcome(uninterrupted.directory)
    assert "\r" not in done.stdout + done.stderr and "\x1b" not in done.stdout + done.stderr
    assert "global batch 64 = 1 process x 16 shards x 4 images" in done.stdout
    accuracy = result(tmp_path / "run")["test"]["accuracy"]
    assert f"test accuracy  {accuracy:.2%}" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].split() == ["run", str(tmp_path / "run")]


def test_torchrun_shows_one_bar_and_gives_the_same_bits(uninterrupted: Job, tmp_path: Path) -> None:
    request = ["torchrun --nproc-per-node 2 -m lenet_dist.train", *SMALL, *place(tmp_path)]
    at_terminal = f"stty rows 40 cols 150; {' '.join(request)}"
    script = ("script", "--quiet", "--return", "--command", at_terminal, "/dev/null")
    done = succeeded(command(*script))
    assert outcome(tmp_path / "run") == outcome(uninterrupted.directory)
    assert result(tmp_path / "run")["world_size"] == 2
    shown = done.stdout.replace("\r", "\n").splitlines()
    assert len([line for line in shown if " 0/60 " in line]) == 1, shown
    assert any(" 60/60 " in line and "images/s" in line for line in shown)
    assert any("epoch 1: validation accuracy" in line for line in shown)


@pytest.mark.parametrize(
    ("launcher", "threads"), [(("python",), 32), (("torchrun", "--nproc-per-node", "2"), 1)]
)
def test_evaluate_gives_the_runs_own_test_metrics(
    uninterrupted: Job, launcher: tuple[str, ...], threads: int
) -> None:
    asked = (str(uninterrupted.directory), "--json", f"compute.threads={threads}")
    shown = succeeded(command(*launcher, "-m", "lenet_dist.evaluate", *asked))
    expected = result(uninterrupted.directory)["test"]
    if not native.variants():  # Torch's sums may depend on the number of threads.
        expected["loss"] = pytest.approx(expected["loss"], rel=1e-6)
    assert json.loads(shown.stdout) == expected


def test_evaluate_takes_a_file_and_overrides(uninterrupted: Job, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    shutil.copy(uninterrupted.directory / "model.safetensors", file)
    # Trained in fp16 on a GPU, say: evaluation is in full precision anywhere.
    overrides = ("data.name=synthetic", "compute.precision=fp16")
    shown = succeeded(forked("lenet_dist.evaluate", str(file), *overrides))
    test = result(uninterrupted.directory)["test"]
    assert f"accuracy {test['accuracy']:.4f}, correct {test['correct']}, count 2000" in shown.stdout


def test_make_help_lists_the_targets_of_the_contract() -> None:
    shown = command("/usr/bin/make", "help")
    for target in ("setup", "train", "test", "check", "lint", "bench", "help"):
        assert f"make {target} " in shown.stdout


def test_pips_settings_for_a_user_do_not_break_the_setup() -> None:
    settings = {"PIP_USER": "1", "PIP_TARGET": "/nowhere"}
    done = command("make", "--eval=probe:; @$(PIP) pip", "probe", environment=settings)
    assert "already satisfied: pip" in succeeded(done).stdout


def test_accelerates_debug_launcher_gives_the_same_bits(uninterrupted: Job, tmp_path: Path) -> None:
    asked = [*SMALL, *place(tmp_path)]
    script = tmp_path / "launch.py"
    script.write_text(
        "from accelerate import debug_launcher\nfrom lenet_dist import train\n"
        f"debug_launcher(train.main, ({asked!r},), num_processes=2)\n"
    )
    succeeded(command("python", str(script)))
    assert result(tmp_path / "run")["world_size"] == 2
    assert outcome(tmp_path / "run") == outcome(uninterrupted.directory)


def test_a_launchers_file_that_contradicts_the_config_is_named_and_undone(tmp_path: Path) -> None:
    file = tmp_path / "accelerate" / "default_config.yaml"
    file.parent.mkdir()
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\n"
        "num_machines: 1\nnum_processes: 1\n"
    )
    of_file = {"HF_HOME": str(tmp_path)}
    asked = (*TRAIN, *SMALL, *place(tmp_path), "compute.precision=no")
    done = command("accelerate", "launch", *asked, environment=of_file)
    said = f"accelerate launch has it from {file}; write compute.precision=bf16 to have it, or"
    before, _, after = done.stderr.partition("error: ")
    assert said in after and "or launch with --mixed_precision no\n" in after
    above, _, below = after.partition("the traceback below is accelerate launch's")
    assert "Traceback" in below and "Traceback" not in before + above


def test_no_traceback_is_spoken_of_where_accelerate_launch_shows_none() -> None:
    done = command("accelerate", "launch", "--quiet", *TRAIN, "train.epochs=0")
    assert "error: train.epochs" in done.stderr and "raceback" not in done.stderr
