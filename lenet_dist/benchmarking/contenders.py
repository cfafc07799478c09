"""What a user would write instead of this job, each as its own documentation teaches it.

Each trains or tests on MNIST as its assignment says, in a process of its own, and gives what it
measured. Each imports what only it needs, so that its seconds to a first step are its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lenet_dist.benchmarking.pace import Assignment, Steps, UntilAccurate, conditions, wait_for_gpu
from lenet_dist.benchmarking.targets import ACCURACY

MFLOP_PER_IMAGE = 2.26
"""Forward: 2 for each of the layers' 416,520 multiplications with their additions. Backward: twice
as many again, without C1's for a gradient of the pixels, which nobody needs."""

_LEARNING_RATE = 0.001


def seed_loop(assignment: Assignment) -> dict[str, Any]:
    """The loop of the document this project grew from, to the letter: it loads single images."""
    loader = _train_loader(assignment)
    pace = Steps(assignment)
    _train_as_the_document(DocumentLeNet(), pace.epochs(loader), assignment.batch_size)
    return pace.result()


def seed_loop_workers(assignment: Assignment) -> dict[str, Any]:
    """The same with torch's advice for slow data: a worker process for each core, kept alive."""
    from lenet_dist.machine.hardware import cores

    loader = _train_loader(assignment, num_workers=cores(), persistent_workers=True)
    pace = Steps(assignment)
    _train_as_the_document(DocumentLeNet(), pace.epochs(loader), assignment.batch_size)
    return pace.result()


def seed_loop_to_accuracy(assignment: Assignment) -> dict[str, Any]:
    """The document's loop until it reaches the test accuracy, which it checks after each epoch."""
    loader = _train_loader(assignment)
    test_loader = DataLoader(_torchvision_mnist(assignment, train=False), batch_size=1000)
    model = DocumentLeNet()

    def accuracy() -> float:
        correct = _count_correct(model, test_loader)
        model.train()
        return correct / 10_000

    pace = UntilAccurate(ACCURACY, assignment, accuracy)
    _train_as_the_document(model, pace.epochs(loader), assignment.batch_size)
    return pace.result()


def accelerate_loop(assignment: Assignment) -> dict[str, Any]:
    """Accelerate as its examples teach it, over torchvision's MNIST."""
    from accelerate import Accelerator

    accelerator = Accelerator()
    train_loader = _train_loader(assignment)
    model = DocumentLeNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)
    pace = Steps(assignment)
    for batches in pace.epochs(train_loader):
        model.train()
        for inputs, targets in batches:
            outputs = model(inputs)
            loss = F.cross_entropy(outputs, targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    return pace.result()


def lightning(assignment: Assignment) -> dict[str, Any]:
    """Lightning as its first page teaches it, over torchvision's MNIST."""
    from lightning import Callback, LightningModule, Trainer

    class LitLeNet(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = DocumentLeNet()

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.model(x), y)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=_LEARNING_RATE)

    class Watch(Callback):
        def on_train_start(self, *_: object) -> None:
            pace.begin()

        def on_train_batch_end(self, *_: object) -> None:
            pace.advance()

    pace = Steps(assignment)
    loader = _train_loader(assignment)
    trainer = Trainer(
        max_epochs=-1, max_steps=pace.last_step, callbacks=[Watch()],
        default_root_dir=assignment.folder,
    )  # fmt: skip
    trainer.fit(LitLeNet(), loader)
    return pace.result()


def bare_loop(assignment: Assignment) -> dict[str, Any]:
    """The framework's ceiling: this job's model over float batches in memory, and nothing else."""
    from lenet_dist.config import Data
    from lenet_dist.data import dataset
    from lenet_dist.model.lenet5 import LeNet5

    device = _device()
    images = dataset.load(Data(name="mnist", root=str(assignment.data)), "train").to(device)
    size = assignment.batch_size
    inputs = dataset.pixels(images.images).split(size)
    whole_batches = len(images) // size
    batches = list(zip(inputs, images.labels.split(size), strict=True))[:whole_batches]
    model = LeNet5().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, fused=True)
    pace = Steps(assignment)
    for epoch in pace.epochs(batches):
        for x, y in epoch:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return pace.result()


def arithmetic_limit(assignment: Assignment) -> dict[str, Any]:
    """Images a second if training were nothing but matrix products at this machine's best rate."""
    from lenet_dist.inspection.device import gigaflops

    rate = gigaflops(_device())
    return {
        "samples_per_second": rate * 1e3 / MFLOP_PER_IMAGE, "gigaflops": rate, **conditions()
    }  # fmt: skip


def job_evaluation(assignment: Assignment) -> dict[str, Any]:
    """This job's own evaluation, each time of all test images."""
    from lenet_dist.config import Compute, Data
    from lenet_dist.data import dataset
    from lenet_dist.model.lenet5 import LeNet5
    from lenet_dist.processes import accelerator as accelerators
    from lenet_dist.training.evaluation import evaluate

    accelerator = accelerators.start(Compute())
    torch.set_num_threads(accelerators.auto_threads())
    images = dataset.load(Data(name="mnist", root=str(assignment.data)), "test")
    images = images.to(accelerator.device)
    model = LeNet5().to(accelerator.device)
    evaluate(model, images, assignment.batch_size, accelerator)
    wait_for_gpu()
    began = time.perf_counter()
    passes = max(1, assignment.steps * assignment.batch_size // len(images))
    for _ in range(passes):
        evaluate(model, images, assignment.batch_size, accelerator)
    wait_for_gpu()
    seconds = time.perf_counter() - began
    return {"samples_per_second": passes * len(images) / seconds, **conditions()}


def seed_evaluation(assignment: Assignment) -> dict[str, Any]:
    """The textbook's evaluation, over torchvision's MNIST."""
    dataset = _torchvision_mnist(assignment, train=False)
    loader = DataLoader(dataset, batch_size=assignment.batch_size)
    pace = Steps(assignment)
    model = DocumentLeNet().to(_device())
    for batches in pace.epochs(loader):
        _count_correct(model, batches)
    return pace.result()


def accelerate_evaluation(assignment: Assignment) -> dict[str, Any]:
    """Accelerate's evaluation as its examples teach it, over torchvision's MNIST."""
    from accelerate import Accelerator

    accelerator = Accelerator()
    dataset = _torchvision_mnist(assignment, train=False)
    loader = DataLoader(dataset, batch_size=assignment.batch_size)
    model, loader = accelerator.prepare(DocumentLeNet(), loader)
    pace = Steps(assignment)
    for batches in pace.epochs(loader):
        model.eval()
        correct = 0
        for inputs, targets in batches:
            with torch.no_grad():
                outputs = model(inputs)
            predictions = outputs.argmax(dim=-1)
            predictions, references = accelerator.gather_for_metrics((predictions, targets))
            correct += (predictions == references).long().sum().item()
    return pace.result()


LOOPS: dict[str, Callable[[Assignment], dict[str, Any]]] = {
    loop.__name__: loop
    for loop in (
        seed_loop, seed_loop_workers, seed_loop_to_accuracy, accelerate_loop, lightning, bare_loop,
        arithmetic_limit, job_evaluation, seed_evaluation, accelerate_evaluation,
    )
}  # fmt: skip
"""The loops by name; each takes a trial in this process."""


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
    model: nn.Module, epochs: Iterable[Iterator[Any]], batch_size: int
) -> None:
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    torch.set_grad_enabled(True)
    model.train()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    for epoch, train_loader in enumerate(epochs):
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
                acc_avg = float(acc / ((step + 1) * batch_size))
                print(f"Epoch {epoch + 1} ,step {step + 1} | {loss_avg:.4f} |{acc_avg:.4f}")

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


def _train_loader(assignment: Assignment, **workers: Any) -> DataLoader[Any]:
    mnist = _torchvision_mnist(assignment, train=True)
    size = assignment.batch_size
    return DataLoader(mnist, batch_size=size, shuffle=True, drop_last=True, **workers)


def _torchvision_mnist(assignment: Assignment, *, train: bool) -> Any:
    """torchvision's MNIST: each access decodes an image to PIL and makes a tensor of it."""
    from torchvision import datasets, transforms

    return datasets.MNIST(
        root=assignment.data, train=train, transform=transforms.ToTensor(), download=False
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
