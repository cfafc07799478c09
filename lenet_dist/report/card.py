"""A run's model as a folder for the Hugging Face hub, with a model card of what was measured.

https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from lenet_dist.config import split_source
from lenet_dist.data.dataset import NAMES
from lenet_dist.exits import RequestError
from lenet_dist.files import check_folder_can_be_written
from lenet_dist.model import formats, lenet5, weights
from lenet_dist.model.hub import HubLeNet5
from lenet_dist.run_dir import reader
from lenet_dist.run_dir.reader import Run

_NAME = "LeNet-5"
_HUB_DATASETS = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
"""A data set's place on the hub; `synthetic` is not there."""


def check(out: Path) -> None:
    """Raise RequestError if the folder can't be written, or holds anything but such an export."""
    check_folder_can_be_written("--out", out)
    if out.is_dir() and any(out.iterdir()) and not _was_exported(out):
        raise RequestError(
            f"--out {out}: holds something else, not just an earlier export;"
            " name a folder that is empty or does not exist yet"
        )


def folder_content(target: Path, weights_file: Path) -> dict[str, bytes]:
    """The folder's files, by name, for the weights of a run or of a file."""
    model = weights.read(weights_file)
    run = reader.read(target) if target.is_dir() else None
    card = f"""---
{_front_matter(run).to_yaml()}
---

# {_NAME}

LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998) with max pools and ReLU: {lenet5.PARAMETERS:,}
parameters. It takes float32 pixels [n, 1, 28, 28] in [0, 1], light ink on black, and gives logits
[n, 10]; mean {model.mean:g} and std {model.std:g} are inside.

{_measured(run)}

```python
from lenet_dist.model.hub import HubLeNet5

model = HubLeNet5.from_pretrained("FOLDER or USER/NAME")
```
"""
    return formats.hub(model, weights_file.read_bytes(), card)


def _was_exported(folder: Path) -> bool:
    """Whether the folder holds what this command writes, and nothing else."""
    if {path.name for path in folder.iterdir()} != formats.HUB_FILES:
        return False
    # By a line that stays if the card is edited.
    card = (folder / formats.CARD).read_text(encoding="utf-8", errors="replace")
    return "\nlibrary_name: lenet_dist\n" in card


def _front_matter(run: Run | None) -> ModelCardData:
    data = HubLeNet5().generate_model_card().data
    assert isinstance(data, ModelCardData)
    hub_dataset = _HUB_DATASETS.get(run.config.data.name) if run else None
    if run is None or hub_dataset is None:
        return data
    data.datasets = [hub_dataset]
    if run.result:
        data.metrics = ["accuracy"]
        data.model_name = _NAME
        data.eval_results = [
            EvalResult(
                task_type="image-classification", dataset_type=hub_dataset, dataset_split="test",
                dataset_name=NAMES[run.config.data.name], metric_type="accuracy",
                metric_value=run.result.test.accuracy,
            )
        ]  # fmt: skip
    return data


def _measured(run: Run | None) -> str:
    if run is None or run.result is None:
        return "It comes without a run's result."
    result, source = run.result, run.config.run.from_
    first = f"\nIt began with the weights `{split_source(source)[1]}`." if source else ""
    return (
        f"Trained for {result.epochs:g} epochs on `{run.config.data.name}`. Test accuracy"
        f" {result.test.accuracy:.2%} ({result.test.correct:,} of {result.test.count:,} images).\n"
        f"SHA-256 of the weights: `{result.weights_sha256}`.{first}"
    )
