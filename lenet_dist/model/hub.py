"""LeNet-5 as the Hugging Face hub's libraries know a model.

from lenet_dist.model.hub import HubLeNet5
model = HubLeNet5.from_pretrained("FOLDER or USER/NAME")
"""

from __future__ import annotations

from huggingface_hub import PyTorchModelHubMixin

from lenet_dist.model.lenet5 import LeNet5


class HubLeNet5(
    LeNet5,
    PyTorchModelHubMixin,
    library_name="lenet_dist",
    license="mit",
    pipeline_tag="image-classification",
    tags=["lenet-5", "mnist"],
):
    """LeNet5 with `save_pretrained` and `from_pretrained`: weights, with `mean` and `std`."""
