"""What a user would write instead of this job, each as its own documentation teaches it.

Run as a program, it takes one trial: python -m lenet_dist.benchmark.baselines NAME DATA FOLDER
BATCH_SIZE STEPS. MNIST's files are in DATA/MNIST/raw; FOLDER gets a result.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

T = TypeVar("T")
MFLOP_PER_IMAGE = 2.26
"""Forward: 2 for each of the layers' 416,520 multiplications with their additions. Backward: twice
as many again, without C1's for a gradient of the pixels, which nobody needs."""

_LEARNING_RATE = 0.001
_WARM_UP_STEPS = 10
_ACCURACY = 0.99


@dataclass
class Trial:
    """What to measure: `steps` steps of a batch size, after some others that are not timed."""

    data: Path
    batch_size: int
    steps: int
    seconds: float = 0.0
    """How long the steps took."""

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """Batches for all steps, epoch after epoch."""
        endless = chain.from_iterable(repeat(loader))
        yield from islice(endless, _WARM_UP_STEPS)
        began = _now()
        yield from islice(endless, self.steps)
        self.seconds = _now() - began

    def result(self) -> dict[str, float]:
        """The speed, by its name in result.json."""
        return {"images_per_second": self.steps * self.batch_size / self.seconds}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def document_loop(trial: Trial) -> dict[str, float]:
    """The loop of the document this project grew from, to the letter: it loads single images."""
    model = DocumentLeNet().to(_device())
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    _train_as_the_document(model, optimizer, trial.batches(_train_loader(trial)), trial)
    return trial.result()


def document_loop_to_accuracy(trial: Trial) -> dict[str, float]:
    """The document's loop until it reaches 99.0% on the test images, tried after each epoch."""
    test_loader = DataLoader(_torchvision_mnist(trial, train=False), batch_size=1000)
    loader = _train_loader(trial)
    model = DocumentLeNet().to(_device())
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    tested_seconds = accuracy = 0.0
    for step in range(0, trial.steps, len(loader)):
        _train_as_the_document(model, optimizer, islice(loader, trial.steps - step), trial)
        began = time.perf_counter()
        accuracy = _count_correct(model, test_loader) / 10_000
        tested_seconds += time.perf_counter() - began
        if accuracy >= _ACCURACY:
            break
    return {"tested_seconds": tested_seconds, "accuracy": accuracy}


def document_evaluation(trial: Trial) -> dict[str, float]:
    """The document's evaluation, over torchvision's MNIST."""
    loader = DataLoader(_torchvision_mnist(trial, train=False), batch_size=trial.batch_size)
    _count_correct(DocumentLeNet().to(_device()), trial.batches(loader))
    return {"evaluated_per_second": trial.result()["images_per_second"]}


def accelerate_loop(trial: Trial) -> dict[str, float]:
    """Accelerate as its examples teach it, over torchvision's MNIST."""
    from accelerate import Accelerator

    accelerator = Accelerator()
    train_loader = _train_loader(trial)
    model = DocumentLeNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)
    model.train()
    for inputs, targets in trial.batches(train_loader):
        outputs = model(inputs)
        loss = F.cross_entropy(outputs, targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return trial.result()


def bare_loop(trial: Trial) -> dict[str, float]:
    """PyTorch's own layers and autograd over float batches that lie in memory, and nothing else:
    no shuffling, no augmentation, no metrics, no checkpoints."""
    model = DocumentLeNet().to(_device())
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, fused=True)
    for x, y in trial.batches(_batches_in_memory(trial)):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return trial.result()


def arithmetic_limit(trial: Trial) -> dict[str, float]:
    """Images a second if training were nothing but matrix products at this machine's best rate."""
    from lenet_dist.preflight.device import measure_gigaflops

    return {"images_per_second": measure_gigaflops(_device()) * 1e3 / MFLOP_PER_IMAGE}


def gradients_alone(trial: Trial) -> dict[str, float]:
    """The job's gradients of 16 shards, over batches that lie in memory."""
    from accelerate import Accelerator

    from lenet_dist.config import Config
    from lenet_dist.kernels import native
    from lenet_dist.train.clock import Clock
    from lenet_dist.train.shard_gradients import ManyAtOnce, NativeKernel
    from lenet_dist.train.state import build_state
    from lenet_dist.train.task import LENET5

    config, accelerator = Config(), Accelerator()
    config.train.batch_size = trial.batch_size
    initial = build_state(LENET5, config, accelerator, Clock(0.0), capturable=False)
    is_native = native.variant() and accelerator.device.type == "cpu"
    gradients_of = (
        NativeKernel(initial, config)
        if is_native
        else ManyAtOnce(initial, LENET5.loss, config, 16, size=16)
    )
    for x, y in trial.batches(_batches_in_memory(trial)):
        gradients_of(x, y, range(16), 0)
    return trial.result()


BASELINES: dict[str, Callable[[Trial], dict[str, float]]] = {
    baseline.__name__: baseline
    for baseline in (
        document_loop, document_loop_to_accuracy, document_evaluation, accelerate_loop, bare_loop,
        arithmetic_limit, gradients_alone,
    )
}  # fmt: skip


class DocumentLeNet(nn.Module):
    """LeNet-5 as the document writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.C1 = nn.Conv2d(in_channels=1, out_channels=6, kernel_size=5, stride=1, padding=2)
        self.R1 = nn.ReLU()
        self.S2 = nn.MaxPool2d(kernel_size=2)
        self.C3 = nn.Conv2d(6, 16, 5, 1, 0)
        self.R2 = nn.ReLU()
        self.S4 = nn.MaxPool2d(2)
        self.C5 = nn.Conv2d(16, 120, 5, 1, 0)
        self.R3 = nn.ReLU()
        self.F6 = nn.Linear(in_features=120, out_features=84)
        self.R4 = nn.ReLU()
        self.OUT = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.S2(self.R1(self.C1(x)))
        x = self.S4(self.R2(self.C3(x)))
        x = self.R3(self.C5(x))
        x = x.view(x.size(0), -1)
        x = self.R4(self.F6(x))
        return self.OUT(x)


def _train_as_the_document(
    model: nn.Module, optimizer: torch.optim.Optimizer, train_loader: Iterable[Any], trial: Trial
) -> None:
    """Train on some batches as the document does, printed lines and all."""
    loss_function = nn.CrossEntropyLoss()
    device = _device()
    torch.set_grad_enabled(True)
    model.train()
    running_loss = 0.0
    acc: Any = 0.0
    for step, data in enumerate(train_loader):
        x, y = data
        optimizer.zero_grad()
        y_pred = model(x.to(device, torch.float))
        loss = loss_function(y_pred, y.to(device, torch.long))
        loss.backward()

        running_loss += float(loss.data.cpu())
        pred = y_pred.argmax(dim=1)
        acc += (pred.data.cpu() == y.data).sum()

        if step % 100 == 99:
            loss_avg = running_loss / (step + 1)
            acc_avg = float(acc / ((step + 1) * trial.batch_size))
            print(f"step {step + 1} | {loss_avg:.4f} |{acc_avg:.4f}")

        optimizer.step()


def _count_correct(model: nn.Module, batches: Iterable[Any]) -> int:
    device = _device()
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in batches:
            predictions = model(x.to(device)).argmax(dim=1)
            correct += int((predictions == y.to(device)).sum().item())
    return correct


def _train_loader(trial: Trial) -> DataLoader[Any]:
    mnist = _torchvision_mnist(trial, train=True)
    return DataLoader(mnist, batch_size=trial.batch_size, shuffle=True, drop_last=True)


def _batches_in_memory(trial: Trial) -> list[tuple[Tensor, Tensor]]:
    """All whole batches of the training images, as floats on the device."""
    mnist = _torchvision_mnist(trial, train=True)
    images = (mnist.data[:, None].float() / 255).to(_device()).split(trial.batch_size)
    labels = mnist.targets.to(_device()).split(trial.batch_size)
    return list(zip(images, labels, strict=True))[: len(mnist) // trial.batch_size]


def _torchvision_mnist(trial: Trial, *, train: bool) -> Any:
    """torchvision's MNIST: each access decodes an image to PIL and makes a tensor of it."""
    from torchvision import datasets, transforms

    return datasets.MNIST(
        root=trial.data, train=train, transform=transforms.ToTensor(), download=False
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(name: str, data: str, folder: str, batch_size: str, steps: str) -> None:
    """Take one trial."""
    measured = BASELINES[name](Trial(Path(data), int(batch_size), int(steps)))
    Path(folder, "result.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
