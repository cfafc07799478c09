"""scripts/ideas: changes of the code that scripts/search-recipe tries."""

from __future__ import annotations

from tests.outcome import result
from tests.processes import ROOT, Jobs

OF_BEST = (
    "optimizer.name=muon",
    "train.ema_decay=0.997",
    "schedule.name=one_cycle",
    "augment.fade=0",
)


def test_every_idea_trains_and_changes_the_weights(jobs: Jobs) -> None:
    ideas = sorted(file.stem for file in (ROOT / "scripts" / "ideas").glob("*.py"))
    modules = {"none": "lenet_dist.train", **{idea: f"scripts.ideas.{idea}" for idea in ideas}}
    keys = (*OF_BEST, "train.max_steps=20", "log.trackers=[]")
    started = [jobs.start(*keys, name=name, module=module) for name, module in modules.items()]
    hashes = {result(job.expect(0).directory)["weights_sha256"] for job in started}
    assert len(hashes) == len(modules) > 9
