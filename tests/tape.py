"""CUDA graphs on a CPU: the operations of a capture are taped, and a replay runs them again on the
same memory, with the numbers that Python had at the capture. So it shows what a graph would miss.

Unlike a GPU's, a capture also runs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_dist.train import cuda_graph, step_params


class Tape(TorchDispatchMode):
    """Stands in for torch.cuda.CUDAGraph."""

    made: ClassVar[list[Tape]] = []

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.replays = 0
        self.made.append(self)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        makes_memory = all(found.alias_info is None for found in operation._schema.returns)
        if makes_memory or operation._schema.is_mutable:
            leaves = _pytree.tree_leaves(result) if makes_memory else []
            made = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            self.calls.append((operation, args, kwargs, made))
        return result

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for operation, args, kwargs, made in self.calls:
                leaves = _pytree.tree_leaves(operation(*args, **kwargs))
                for work in leaves:
                    if isinstance(work, torch.ScriptObject):  # A collective: it is under way.
                        work.wait()
                again = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
                for old, new in zip(made, again, strict=False):
                    old.copy_(new)

    def reset(self) -> None:
        self.calls.clear()
        print("the graph is given back", flush=True)


class Capture:
    """Stands in for torch.cuda.graph."""

    def __init__(self, graph: Tape, **how: object) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        self.graph.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.graph.__exit__(*error)


class FailingCapture(Capture):
    """One that fails at its end, as torch's does."""

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        raise RuntimeError("CUDA error: operation failed due to an error during capture")


class ScalarParams(step_params.StepParamsOnDevice):
    """Parameters as a GPU has them, in scalars that stay where they are."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._is_on_cpu = False


def install(capture: type[Capture] = Capture) -> None:
    """From now on, capture on this process's CPU."""
    cuda: Any = torch.cuda
    cuda.CUDAGraph, cuda.graph = Tape, capture
    cuda.Stream = cuda.current_stream = cuda.set_stream = lambda *_: None
    cuda.synchronize = lambda *_: None
    cuda_graph.obstacle = lambda *_: None
