"""report.html: what it says of a run, and when it is made."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import pytest

from lenet_dist import report
from lenet_dist.config import to_yaml
from lenet_dist.exits import RequestError
from lenet_dist.report import page
from lenet_dist.request import load
from lenet_dist.run_dir import reader
from tests.commands import command
from tests.outcome import outcome, result
from tests.pages import altered, html_of, page_of
from tests.processes import Job, Jobs

pytestmark = pytest.mark.processes


def test_a_page_says_what_the_run_came_to(interrupted: Path) -> None:
    shown, of_run = page_of(interrupted), result(interrupted)
    test = of_run["test"]
    assert f" {100 * test['accuracy']:.2f} % test accuracy: " in shown
    assert f"{test['correct']:,} of {test['count']:,} images right" in shown
    assert "61,706" in shown and f"{of_run['epochs']:g} epochs" in shown
    assert "60 steps of 64 images" in shown
    assert of_run["hardware"] in shown and "1 CPU thread a process" in shown
    assert "Interruptions 1" in shown and "World size 1 process" in shown
    for name in ("weights_sha256", "config_hash", "data_sha256"):
        assert of_run[name] in shown
    for name, version in of_run["versions"].items():
        assert f"{name} {version}" in shown
    for label, row in enumerate(test["confusion"]):
        assert f"{label} {' '.join(map(str, row))} " in shown


def test_it_has_the_worst_mistakes_as_pictures_and_the_interruptions(interrupted: Path) -> None:
    html = html_of(interrupted)
    test = result(interrupted)["test"]
    wrong = test["count"] - test["correct"]
    shown = re.findall(
        r'<img src="data:image/png;base64,[^"]+" [^>]*'
        r'alt="Test image (\d+): (\d), taken for (\d) with probability ([\d.]+) %"',
        html,
    )
    assert len(shown) == min(wrong, 24) > 0
    certainties = [float(probability) for *_, probability in shown]
    assert certainties == sorted(certainties, reverse=True)
    for _, label, prediction, _ in shown:
        assert test["confusion"][int(label)][int(prediction)] > 0 and label != prediction
    starts = [json.loads(line) for line in (interrupted / "starts.jsonl").read_text().splitlines()]
    assert html.count(f"Interrupted at {starts[1]['step']:,}.") == 4, "in each plot"


def test_the_command_in_the_page_gives_the_same_bits(uninterrupted: Job, tmp_path: Path) -> None:
    html = html_of(uninterrupted.directory)
    shown = re.search(r"<code>(accelerate launch -m lenet_dist\.train .*?)</code>", html)
    assert shown
    with Jobs(tmp_path) as started:
        overrides = tuple(shlex.split(unescape(shown[1]))[4:])
        assert "run.name=run-again" in overrides
        again = started.run(base=overrides, name="again")
    assert outcome(again.directory) == outcome(uninterrupted.directory)


@pytest.mark.parametrize(
    "override",
    [
        "compute.precision=bf16", "optimizer.lr=1e-05", "data.download=no",
        "wandb.tags=['a b', \"it's\", 'ä, [x]']", "wandb.entity='1e3'",
        "wandb.group='two words $HOME'", "run.root='/tmp/it''s here'",
    ],
)  # fmt: skip
def test_the_command_has_every_key_that_is_not_at_its_default(
    uninterrupted: Job, tmp_path: Path, override: str
) -> None:
    asked = load(uninterrupted.directory / "config.yaml", [override])
    directory = altered(uninterrupted.directory, tmp_path, config=to_yaml(asked))
    words = shlex.split(page.rerun_command(reader.read(directory)))
    again = load(None, [*words[4:], f"run.name={asked.run.name}"])
    assert again == asked


def test_a_run_that_is_not_complete_is_shown_as_far_as_it_came(unfinished: Path) -> None:
    shown = page_of(unfinished)
    (step,) = re.findall(r"Not complete: step (\d+) of 60 at its newest checkpoint", shown)
    assert 42 <= int(step) < 60
    last = reader.read(unfinished).validation[-1]
    assert f"validation accuracy at step 39: {last.correct:,} of {last.count:,}" in shown
    assert "this run is not complete: it has no model.safetensors yet" in shown


def test_without_the_images_the_page_says_which_lack(uninterrupted: Job, tmp_path: Path) -> None:
    # data.download is true: it must not try.
    overrides = ["data.name=mnist", f"data.root={tmp_path}/nothing"]
    asked = load(uninterrupted.directory / "config.yaml", overrides)
    copy = altered(uninterrupted.directory, tmp_path, config=to_yaml(asked))
    shown = page_of(copy)
    assert "Pictures None: data.name=mnist" in shown and f"{tmp_path}/nothing" in shown
    assert not (tmp_path / "nothing").exists()
    test = result(uninterrupted.directory)["test"]
    assert f"{test['correct']:,} of {test['count']:,} images right" in shown


def test_weights_that_are_not_the_results_are_left_out(several: list[Path], tmp_path: Path) -> None:
    copy = altered(several[0], tmp_path)
    shutil.copy(several[2] / "model.safetensors", copy)
    said = f"Pictures None: {copy}/model.safetensors: not the weights of {copy}/result.json"
    assert said in page_of(copy)


def test_what_a_user_has_named_is_text_and_never_markup(uninterrupted: Job, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    asked = load(uninterrupted.directory / "config.yaml", [f'wandb.group="{evil}"'])
    html = page.of_run(
        reader.read(altered(uninterrupted.directory, tmp_path, config=to_yaml(asked)))
    )
    assert "<script" not in html and evil in unescape(html)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("metrics", 'junk\n{"kind": "train"}\n', "metrics.jsonl, line 1: damaged"),
        ("metrics", '{"step": 1}\n{"kind": "train", "step": 1}\n', "line 2: loss: missing"),
        (
            "metrics",
            '{"kind": "validation", "step": 1, "epoch": 1, "loss": 1, "confusion": [[]]}',
            "line 1: damaged",
        ),
        ("result", "{}", "result.json: damaged"),
        ("result", '{"test": 3, "weights_sha256": "0"}', "result.json: test: damaged"),
        ("starts", "{}\n", "starts.jsonl, line 1: damaged"),
        ("ranks", '{"step": 7, "steps": 7, "computed": 3}\n', "line 1: computed: damaged"),
        ("config", "train: [", "config.yaml"),
    ],
)
def test_what_is_damaged_is_refused_by_file_and_place(
    uninterrupted: Job, tmp_path: Path, name: str, content: str, named: str
) -> None:
    copy = altered(uninterrupted.directory, tmp_path, **{name: content})
    with pytest.raises(RequestError) as refused:
        report.main([str(copy)])
    assert named in str(refused.value)
    assert not (copy / "report.html").exists()


@pytest.mark.parametrize("arguments", [[], ["README.md"], ["configs"], ["x", "--nosuch"]])
def test_what_is_no_run_is_refused_by_name(arguments: list[str]) -> None:
    with pytest.raises(RequestError) as refused:
        report.main(arguments)
    assert (arguments or ["RUN"])[-1] in str(refused.value)


def test_the_command_writes_into_the_run_or_where_it_is_told(
    several: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    paths = [str(path) for path in several[:2]]
    report.main(paths[:1])
    report.main([*paths[:1], "--out", "one.html"])
    report.main(paths)
    report.main([*paths, "--out", "many.html"])
    written = [several[0] / "report.html", Path("one.html"), Path("report.html"), Path("many.html")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    assert [path.read_text().count("<h1>") for path in written] == [1] * 4
    assert written[2].read_text() == written[3].read_text()


def test_a_run_ends_with_its_page(jobs: Jobs) -> None:
    job = jobs.run("log.report=true", "train.max_steps=10", world_size=2)
    last = job.main.text().rstrip().splitlines()[-1]
    assert last.split() == ["report", str(job.directory / "report.html")]
    accuracy = result(job.directory)["test"]["accuracy"]
    assert f"<title>run: {100 * accuracy:.2f}" in (job.directory / "report.html").read_text()


def test_a_page_that_cant_be_written_leaves_the_run_complete_and_says_so(jobs: Jobs) -> None:
    (jobs.folder / "run" / "report.html").mkdir(parents=True)
    job = jobs.run("log.report=true", "train.max_steps=10")
    (warning,) = [line for line in job.text().splitlines() if line.startswith("warning:")]
    assert f"can't write {job.directory / 'report.html'}" in warning
    assert f"python -m lenet_dist.report {job.directory}" in warning
    assert result(job.directory)["status"] == "completed"


def test_a_notebooks_backend_for_matplotlib_does_not_break_the_report() -> None:
    backend = {"MPLBACKEND": "module://of_a_notebook.backend_inline"}
    done = command("python", "-c", "import lenet_dist.report.plots", environment=backend)
    assert (done.returncode, done.stderr) == (0, "")
