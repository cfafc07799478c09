"""What the preflight makes of what the ranks are and measured: one that is not like it is named."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lenet_dist.preflight.findings import differences, findings
from lenet_dist.preflight.rank import Rank
from tests.properties import PROPERTY

SOUND = Rank(
    rank=0, host="n0", local_rank=0, device="H200", driver="580.1",
    memory_free=10**11, memory_total=15 * 10**10, cores=16, threads=8,
    kernels="x86-64-v4",
    versions={"torch": "2.15.0", "cuda": None}, git_commit="c0ffee", config_hash="1",
    data_sha256="ab" * 32, run_root="/runs", environment={"NCCL_DEBUG": "WARN"}, gigaflops=5e4,
    link_mb_s=2e4, write_mb_s=800.0,
    weights_sha256="12" * 32, repeats=True,
)  # fmt: skip


def sound(count: int) -> list[Rank]:
    """As many ranks, a host each, alike."""
    return [dataclasses.replace(SOUND, rank=rank, host=f"n{rank}") for rank in range(count)]


DEFECTS: dict[str, dict[str, Any]] = {
    "device": {"device": "H100"},
    "driver": {"driver": "570.0"},
    "device memory (bytes)": {"memory_total": 10**10},
    "cores": {"cores": 15},
    "threads": {"threads": 7},
    "kernels": {"kernels": "torch"},
    "version of torch": {"versions": {"torch": "2.14.0", "cuda": None}},
    "git commit": {"git_commit": None},
    "config (hash)": {"config_hash": "2"},
    "data (SHA-256)": {"data_sha256": "cd" * 32},
    "NCCL_DEBUG": {"environment": {}},
    "compute": {"gigaflops": 1e4},
    "link": {"link_mb_s": 5e3},
    "disk write": {"write_mb_s": 200.0},
    "disk": {"failures": {"disk": "can't write /runs: No space left on device"}},
}


@PROPERTY
@given(st.sampled_from(sorted(DEFECTS)), st.integers(3, 9), st.data())
def test_the_rank_that_differs_is_named_alone(what: str, count: int, data: st.DataObject) -> None:
    ranks = sound(count)
    wrong = data.draw(st.integers(0, count - 1))
    ranks[wrong] = dataclasses.replace(ranks[wrong], **DEFECTS[what])
    (found,) = findings(ranks, slow=3.0)
    assert found.ranks == [wrong] and found.what == what
    assert found.text.startswith(f"rank {wrong} on n{wrong}: {what}: ")


def test_ranks_that_differ_alike_are_named_together() -> None:
    ranks = sound(5)
    for rank in (1, 3):
        ranks[rank] = dataclasses.replace(ranks[rank], git_commit="dead")
    (found,) = differences(ranks)
    assert found.text == "rank 1 on n1, rank 3 on n3: git commit: dead here, c0ffee on rank 0 on n0"


def test_other_bits_without_a_known_reason_are_the_hardwares() -> None:
    ranks = sound(16)
    ranks[5] = dataclasses.replace(ranks[5], weights_sha256="ef" * 32)
    (found,) = findings(ranks, 3)
    assert found.text.startswith("rank 5 on n5 computes different bits than the other 15: nothing ")
    ranks[5] = dataclasses.replace(SOUND, rank=5, host="n5", repeats=False)
    (found,) = findings(ranks, 3)
    assert found.ranks == [5] and "the same bits twice" in found.text
