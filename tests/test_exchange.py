"""What shared memory gathers is what Accelerate gathers; without it, Accelerate does."""

from __future__ import annotations

import pytest

from tests.processes import Jobs

pytestmark = pytest.mark.processes


def test_processes_of_one_machine_gather_through_memory_what_accelerate_gathers(jobs: Jobs) -> None:
    job = jobs.start(module="tests.gathering", world_size=3).expect(0)
    assert [rank.text().strip() for rank in job.ranks] == ["shared memory"] * 3


@pytest.mark.parametrize(("lacking", "call"), [(0, "memfd_create"), (1, "bind"), (1, "recvmsg")])
def test_where_a_sandbox_refuses_one_process_any_part_all_gather_as_accelerate_does(
    jobs: Jobs, lacking: int, call: str
) -> None:
    without = {lacking: {"TEST_REFUSED": call}}
    job = jobs.start(module="tests.gathering", world_size=3, own_environment=without).expect(0)
    assert [rank.text().strip() for rank in job.ranks] == ["Accelerate's"] * 3
