"""Accelerate, set up from the config and checked against the environment."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    str_to_bool,
)

from lenet_dist.config import Compute
from lenet_dist.distributed import launch, slurm, waiting
from lenet_dist.distributed.roll_call import roll_call
from lenet_dist.distributed.shared_gpu import refuse_shared_gpus
from lenet_dist.exits import (
    NodeError,
    RequestError,
    RunFailed,
    Stopped,
    paths_named,
)
from lenet_dist.launchers import is_elastic
from lenet_dist.system import Place, cores, cpu_name

T = TypeVar("T")

_NCCL_WAITS_LONGER = timedelta(seconds=60)
_SHARED_GPU = ("Duplicate GPU", "using the same GPU")
"""In NCCL's messages, until 2.29 and from 2.30 on."""

_LOST_PEER_PATTERN = re.compile(
    r"connection (closed|reset|refused|was aborted)|time(d |-)?out|broken pipe|not connected"
    r"|unreachable|no route to host|connectfullmesh failed",
    re.IGNORECASE,
)
"""In gloo's messages. Its other errors are no peer's fault, and a restart does not mend them."""

_DDP = "this job uses DDP: name another --config_file, as in configs/launch"
_NEUTRAL = {
    "ACCELERATE_USE_DEEPSPEED": ("false", _DDP),
    "ACCELERATE_USE_FSDP": ("false", _DDP),
    "ACCELERATE_USE_MEGATRON_LM": ("false", _DDP),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("false", _DDP),
    "ACCELERATE_USE_SAGEMAKER": ("false", _DDP),
    "ACCELERATE_MIXED_PRECISION": (
        "no", "write compute.precision={value} to have it, or launch with --mixed_precision no",
    ),
    "ACCELERATE_DYNAMO_BACKEND": (
        "no", "write compute.compile=true to have inductor, or launch with --dynamo_backend no",
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "1", "train.shards does this: launch with --gradient_accumulation_steps 1",
    ),
    "ACCELERATE_TORCH_DEVICE": ("", "use CUDA_VISIBLE_DEVICES or accelerate launch --cpu"),
}  # fmt: skip
"""Variables that could override the config: the value that doesn't, and what to do instead. The
first that is set is named."""


def world_size_of_environment() -> int:
    """How many processes the launcher says there are.

    Raises RequestError if the launcher's variables are incomplete or not numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in names if os.environ.get(name)]
    numbers = [name for name in present if name != "MASTER_ADDR"]
    for name in numbers:
        if not os.environ[name].isdecimal():
            raise RequestError(f"{name}={os.environ[name]}: must be a number")
    world_size = int(os.environ.get("WORLD_SIZE") or 1)
    if world_size > 1 and len(present) < len(names):
        missing = ", ".join(name for name in names if name not in present)
        raise RequestError(
            f"WORLD_SIZE={world_size} but {missing} not set: start the processes with torchrun,"
            " accelerate launch or srun, or unset WORLD_SIZE"
        )
    if world_size < 1:
        raise RequestError(f"WORLD_SIZE={world_size}: must be at least 1")
    if int(os.environ.get("RANK") or 0) >= world_size:
        raise RequestError(f"RANK={os.environ['RANK']} is not below WORLD_SIZE={world_size}")
    return world_size


def start_accelerator(compute: Compute) -> Accelerator:
    """The Accelerator of this process, connected to its peers.

    Raises RequestError if the environment contradicts the config, LostProcess if a peer is missing.
    """
    world_size = world_size_of_environment()
    _check_environment(compute)
    _check_torchs_debugging(world_size)
    if world_size > 1 and multiprocessing.parent_process():
        # As torchrun starts them. A notebook's forks have its number, and none of the threads.
        torch.set_num_threads(1)
    wants_cpu = _wants_cpu()
    on_cpu = not torch.cuda.is_available() or wants_cpu
    _set_determinism(compute.deterministic)
    if not on_cpu:
        _set_up_gpu()
    # Otherwise Accelerate sets the threads itself, and warns; compute.threads sets them later.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    timeout = timedelta(seconds=compute.timeout_seconds)
    if world_size > 1:
        waiting.limit_waits(compute.timeout_seconds, on_gpu=not on_cpu)
        # NCCL's own end is SIGABRT, and no word of why.
        timeout = waiting.NO_LIMIT if on_cpu else timeout + _NCCL_WAITS_LONGER
    obstacle = None if wants_cpu else _missing_gpu()
    seconds = compute.timeout_seconds
    with peer_watch(seconds), roll_call(obstacle, world_size, seconds):
        if compute.precision == "fp16" and on_cpu:
            raise RequestError("compute.precision=fp16 needs a GPU; on a CPU use no or bf16")
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=compute.precision,
            gradient_accumulation_steps=1,
            dataloader_config=DataLoaderConfiguration(split_batches=True, even_batches=False),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timeout),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
        if not on_cpu and world_size > 1:
            _refuse_shared_gpus(accelerator)
    if accelerator.num_processes != world_size:
        raise RequestError(
            f"WORLD_SIZE={world_size} but Accelerate made {accelerator.num_processes} processes"
        )
    if world_size == 1:
        launch.warn_of_processes_not_started()
    return accelerator


def _missing_gpu() -> NodeError | None:
    """What is wrong with a task that SLURM gave a GPU and that sees none."""
    gpus = slurm.gpus_of_task()
    if gpus is None or torch.cuda.is_available():
        return None
    return NodeError(
        f"SLURM gave this task GPU {gpus} on {slurm.node_name()}, but torch {torch.__version__}"
        " sees none there: look at nvidia-smi and at torch's CUDA version, or ask for no GPUs"
    )


def _refuse_shared_gpus(accelerator: Accelerator) -> None:
    may_share = os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1"  # From NCCL 2.30 on.
    if torch.distributed.get_backend() == "nccl" and not may_share:
        store = torch.distributed.distributed_c10d._get_default_store()
        refuse_shared_gpus(store, place_of(accelerator), accelerator.num_processes)


def auto_threads() -> int:
    """CPU threads per process: SLURM's share, or this node's cores divided by its processes."""
    if (share := slurm.cpus_of_task()) is not None:
        return min(share, cores())
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def device_name(accelerator: Accelerator) -> str:
    """``cpu``, or the GPU's model."""
    device = accelerator.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def place_of(accelerator: Accelerator) -> Place:
    """Where to find this process: host, and processor."""
    device = accelerator.device
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        computes_on = f"{properties.name}, GPU-{properties.uuid}"
    else:
        computes_on = cpu_name()
    return Place(accelerator.process_index, slurm.node_name(), computes_on)


def say(accelerator: Accelerator, text: object) -> None:
    """Print a text once per job. Accelerate's own print does so once per node."""
    if accelerator.is_main_process:
        print(text, flush=True)


def meet(accelerator: Accelerator) -> None:
    """Wait until every process is here. Accelerate's own barrier names a GPU by the local rank,
    which is wrong where a process sees only one GPU."""
    if accelerator.num_processes > 1:
        gpu = accelerator.device.index  # None on a CPU. On a GPU, torch warns if it is not named.
        torch.distributed.barrier(device_ids=None if gpu is None else [gpu])


@contextmanager
def stopping_together(accelerator: Accelerator) -> Iterator[None]:
    """When a job is stopped, keep its processes alive until the main one is done too.

    srun and torchrun kill the others as soon as one exits with a code other than 0.
    """
    try:
        yield
    except Stopped:
        with suppress(RuntimeError):  # All is saved, so losing a process now does no harm.
            meet(accelerator)
        raise


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Call `action` on the main process only; every process gets its value, or raises its error."""
    outcome: tuple[T | None, Exception | None] = (None, None)
    if accelerator.is_main_process:
        try:
            with paths_named():
                outcome = (action(), None)
        except (RequestError, RunFailed) as error:
            outcome = (None, error)
    value, raised = broadcast_object_list([outcome])[0]
    if raised is not None:
        raise raised
    return cast(T, value)


def on_each(action: Callable[[], T]) -> T:
    """Call `action` on every process; if it fails on one, every process raises that error."""
    value, errors = _outcomes(action)
    for error in errors:
        if error is not None:
            raise error
    return cast(T, value)


def on_each_that_can(action: Callable[[], T]) -> tuple[T | None, list[Exception | None]]:
    """Call `action` on every process. Gives this one's value, and the error of each, by rank.

    If it fails on all of them, the cause is not in one process: every process raises the error.
    """
    value, errors = _outcomes(action)
    if errors[0] is not None and None not in errors:
        raise errors[0]
    return value, errors


def on_each_node(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Call `action` on one process of each node; if one fails, every process raises its error."""
    on_each(action if accelerator.is_local_main_process else lambda: None)


def _outcomes(action: Callable[[], T]) -> tuple[T | None, list[Exception | None]]:
    value: T | None = None
    failure: Exception | None = None
    try:
        with paths_named():
            value = action()
    except (RequestError, RunFailed) as error:
        failure = error
    return value, gather_object([failure])


@contextmanager
def peer_watch(timeout_seconds: int) -> Iterator[None]:
    """Raise LostProcess in place of what a collective raises for a lost peer, and NodeError if two
    processes have the same GPU or the port where they meet is taken."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, RunFailed):
            raise
        rank = waiting.this_rank()
        if "gloo" in text and "Unable to find" in text:
            raise NodeError(f"{rank} can't use its network: {text[:300]}") from None
        is_of_gloo = "gloo" in text and _LOST_PEER_PATTERN.search(text)
        if not (is_of_gloo or isinstance(error, torch.distributed.DistError)):
            raise
        if any(words in text for words in _SHARED_GPU):
            raise NodeError(
                f"{rank} has the same GPU as another process, which NCCL refuses: start"
                " one process per GPU at most, and let each see all GPUs or one of its own"
            ) from None
        # An elastic launcher has chosen the port, and chooses another one.
        if "EADDRINUSE" in text and not is_elastic():
            raise NodeError(
                f"{rank} can't listen on MASTER_PORT={os.environ['MASTER_PORT']}, which another"
                " program there does: choose another port"
            ) from None
        raise waiting.lost(timeout_seconds, text[:300]) from None


def _check_environment(compute: Compute) -> None:
    for name, (neutral, advice) in _NEUTRAL.items():
        harmless = {"", neutral} | ({"0"} if neutral == "false" else set())
        if name == "ACCELERATE_MIXED_PRECISION":
            harmless.add(compute.precision)
        value = os.environ.get(name, "").lower()
        if name == "ACCELERATE_DYNAMO_BACKEND" and compute.compile and value == "inductor":
            os.environ[name] = neutral  # compute.compile does it, and twice is too often.
        elif value not in harmless:
            option = name.removeprefix("ACCELERATE_").lower()
            raise RequestError(
                f"{name}={os.environ[name]} would override the config, and {launch.source(option)};"
                f" {advice.format(value=value)}"
            )


def _check_torchs_debugging(world_size: int) -> None:
    name = "TORCH_DISTRIBUTED_DEBUG"
    if world_size > 1 and os.environ.get(name, "").upper() == "DETAIL":
        raise RequestError(f"{name}=DETAIL: torch crashes with it when it makes DDP; write INFO")


def _wants_cpu() -> bool:
    value = os.environ.get("ACCELERATE_USE_CPU") or "no"
    try:
        return str_to_bool(value, to_bool=True)
    except ValueError:
        raise RequestError(f"ACCELERATE_USE_CPU={value}: must be true or false") from None


def _set_up_gpu() -> None:
    # Otherwise Accelerate tells DDP the GPU by the local rank: see `meet`.
    os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"
    # Otherwise cuDNN rounds the inputs of float32 convolutions to TF32 where the GPU has it, and
    # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE has cuBLAS do the same.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")


def _set_determinism(deterministic: bool) -> None:
    # use_deterministic_algorithms does the same but imports the compiler: over a second.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic
    # Filling every new tensor with NaN is a debugging aid, not a matter of determinism.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
