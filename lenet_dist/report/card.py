"""The model card: what the Hugging Face hub shows of a model, and finds it by.

https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from lenet_dist.data.dataset import NAMES
from lenet_dist.model import lenet5
from lenet_dist.model.hub import HubLeNet5
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.run_dir.reader import Run

_NAME = "LeNet-5"
_HUB_DATASETS = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
"""A data set's place on the hub; `synthetic` is not there."""


def text(model: LeNet5, run: Run | None) -> str:
    """A README.md: front matter for the hub's machines, then what a person wants to know.

    `run`: the run that the model's weights come from; None: not known.
    """
    return f"""---
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


def is_ours(card: str) -> bool:
    """Whether a card, even one that was edited since, is of this project's model."""
    return f"\nlibrary_name: {_class_data().library_name}\n" in card


def _front_matter(run: Run | None) -> ModelCardData:
    data = _class_data()
    place = _HUB_DATASETS.get(run.config.data.name) if run else None
    if run is None or place is None:
        return data
    data.datasets = [place]
    if run.result:
        data.metrics = ["accuracy"]
        data.model_name = _NAME
        data.eval_results = [
            EvalResult(
                task_type="image-classification", dataset_type=place, dataset_split="test",
                dataset_name=NAMES[run.config.data.name], metric_type="accuracy",
                metric_value=run.result.test.accuracy,
            )
        ]  # fmt: skip
    return data


def _class_data() -> ModelCardData:
    """What holds for any weights, as the class tells it to the hub; a new copy each time."""
    data = HubLeNet5().generate_model_card().data
    assert isinstance(data, ModelCardData)
    return data


def _measured(run: Run | None) -> str:
    if run is None or run.result is None:
        return "It comes without a run's result."
    result = run.result
    return (
        f"Trained for {result.epochs:g} epochs on `{run.config.data.name}`. Test accuracy"
        f" {result.test.accuracy:.2%} ({result.test.correct:,} of {result.test.count:,} images).\n"
        f"SHA-256 of the weights: `{result.weights_sha256}`."
    )
