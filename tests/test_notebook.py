"""A run in a notebook: the kernel is Jupyter's, as a browser would talk to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from tests.outcome import checkpoint_steps, outcome, result
from tests.processes import PATIENCE, ROOT, SMALL, Job, Jobs, wait_until

pytestmark = pytest.mark.processes

STATE = """
import os, signal, threading, torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from lenet_dist.kernels import native

def state():
    conv = torch.backends.cudnn.conv
    return {
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(n)) for n in sorted(signal.valid_signals())],
        "wakeup": signal.set_wakeup_fd(signal.set_wakeup_fd(-1)) or 0,
        "threads": (torch.get_num_threads(), native._threads),
        "deterministic": (
            torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "precision": (torch.get_float32_matmul_precision(), conv.fp32_precision),
        "random": torch.get_rng_state().tolist(),
        "accelerate": [
            sorted(one._shared_state) for one in (AcceleratorState, GradientState, PartialState)
        ],
    }
"""


class Notebook:
    """A notebook's kernel, with its working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configs").symlink_to(ROOT / "configs")
        self.kernel, self.client = start_new_kernel(cwd=str(folder))

    def run(self, cell: str, error: str | None = None) -> str:
        """Run a cell to its end. Gives what it shows; `error`: what it must raise.

        No error stops what comes after it: a slow kernel would abort the next cell without a word.
        """
        self.shown: list[str] = []
        self.kinds: set[str] = set()
        reply = self.client.execute_interactive(
            cell, stop_on_error=False, timeout=PATIENCE, output_hook=self._show
        )
        content, shown = reply["content"], "".join(self.shown)
        assert content["status"] == ("error" if error else "ok"), f"{content}: {shown}"
        assert content.get("ename") == error, f"{content.get('ename')}: {shown}"
        return shown

    def value(self, expression: str) -> Any:
        """The value of an expression, as far as Python's literals go."""
        return ast.literal_eval(self.run(expression))

    def _show(self, message: dict[str, Any]) -> None:
        content = message["content"]
        self.shown += [content.get("text", "")]
        self.shown += [content.get("data", {}).get("text/plain", "")]
        self.kinds |= content.get("data", {}).keys()
        self.shown += content.get("traceback", [])

    def close(self) -> None:
        self.client.stop_channels()
        self.kernel.shutdown_kernel(now=True)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    opened = Notebook(tmp_path)
    yield opened
    opened.close()


def launch(folder: Path, *overrides: str, name: str = "run", processes: int = 1) -> str:
    """The cell that trains SMALL."""
    arguments = [*SMALL, f"run.root={folder}", f"run.name={name}", *overrides]
    return (
        "from accelerate import notebook_launcher\nfrom lenet_dist import train\n"
        f"notebook_launcher(train.main, ({arguments!r},), num_processes={processes})\n"
    )


def test_the_cells_of_the_docs_train_and_show_an_accuracy(notebook: Notebook) -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    section = page.split("\n## In a notebook\n")[1].split("\n## ")[0]
    first, second = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    notebook.run("import os; os.environ['WANDB_MODE'] = 'disabled'")
    shown = notebook.run(first)
    assert re.search(r"test accuracy +\d\d\.\d+%", shown), shown
    run = notebook.folder / "runs" / "notebook"
    assert notebook.value(second) == result(run)["test"]["accuracy"]


def test_a_notebook_is_as_it_was_before_and_runs_follow_one_another_with_any_config(
    notebook: Notebook, uninterrupted: Job, jobs: Jobs
) -> None:
    notebook.run(STATE + "torch.set_num_threads(2)\nbefore = state()")
    torch_only = ("compute.kernels=torch", "compute.precision=bf16", "train.max_steps=20")
    other = ("compute.deterministic=false", "train.max_steps=20")
    for name, overrides in (("run", ()), ("run", ()), ("bf16", torch_only), ("other", other)):
        notebook.run(launch(notebook.folder, *overrides, name=name))
        assert (
            notebook.value("{k: (v, state()[k]) for k, v in before.items() if state()[k] != v}")
            == {}
        )
    assert outcome(notebook.folder / "run") == outcome(uninterrupted.directory)
    alone = jobs.run(*torch_only, name="alone")
    assert outcome(notebook.folder / "bf16") == outcome(alone.directory)


def test_an_interrupted_cell_can_be_run_again_to_its_end_with_the_notebooks_bar(
    notebook: Notebook, uninterrupted: Job
) -> None:
    cell = launch(notebook.folder)
    begun = notebook.client.execute(cell, stop_on_error=False)
    run = notebook.folder / "run"
    wait_until(lambda: bool(checkpoint_steps(run)), lambda: begun, every=0.002)
    notebook.kernel.interrupt_kernel()
    replies = iter(lambda: notebook.client.get_shell_msg(timeout=PATIENCE), None)
    reply = next(reply for reply in replies if reply["parent_header"].get("msg_id") == begun)
    assert reply["content"]["ename"] == "Stopped"
    notebook.run(cell)
    assert "application/vnd.jupyter.widget-view+json" in notebook.kinds
    assert result(run)["resumes"] == 1
    assert outcome(run) == outcome(uninterrupted.directory)


def test_two_processes_of_a_notebook_that_has_computed_give_the_same_bits(
    notebook: Notebook, uninterrupted: Job
) -> None:
    notebook.run("import torch; torch.set_num_threads(2); (torch.ones(600, 600) @ torch.ones(600))")
    notebook.run("torch.ones(1 << 20).exp()")
    for processes, name in ((1, "alone"), (2, "run")):
        notebook.run(launch(notebook.folder, name=name, processes=processes))
        assert result(notebook.folder / name)["world_size"] == processes
        assert outcome(notebook.folder / name) == outcome(uninterrupted.directory)
    notebook.run("from lenet_dist.train import threads; threads._PATIENCE_SECONDS = 3")
    threads = ("compute.kernels=torch", "compute.threads=2")
    refused = launch(notebook.folder, *threads, name="refused", processes=2)
    shown = notebook.run(refused, error="ChildFailedError")
    assert "here it can't: restart the notebook's kernel" in " ".join(shown.split())
