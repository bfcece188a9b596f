"""One video on two processes that share a model: they must skip the same steps, or one waits for the other for ever.

Sequence parallelism: of the latent, each process runs its half of the frames through the model, what attention needs of
the other half is exchanged within the model, and so is the output. Run as a script, this file is one of the processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import Bell

from adacache_core.config import CacheConfig
from adacache_core.decide.fixed import Fixed
from adacache_core.loop import AdaCache
from adacache_core.presets import auto, quality
from adacache_core.schedule import Schedule

STEPS = 30
SIGMAS = [3 * t / (1 + 2 * t) for t in (1 - step / STEPS for step in range(STEPS + 1))]
SHAPE = (1, 4, 6, 5, 5)
WORLD = 2
PATIENCE = 120  # seconds, on a busy machine; a process that waits for the other one waits longer
PLAN = tuple(step % 2 == 0 or step == STEPS - 1 for step in range(STEPS))
WAYS = {"auto": auto(2.0), "quality": quality(30.0), "schedule": CacheConfig(Fixed(Schedule(PLAN)))}


class Halves(nn.Module):
    """Videos whose first half hardly differs from one to another, so that it is easy to forecast; the second is not."""

    def __init__(self):
        super().__init__()
        self.bell = Bell(SHAPE)
        self.bell.variance[:, :, : SHAPE[2] // WORLD] *= 1e-3

    def of(self, rank, x, sigma):
        """The velocity of the frames that a rank has."""
        mine = Bell(SHAPE)
        mine.mean, mine.variance = (whole.chunk(WORLD, 2)[rank] for whole in (self.bell.mean, self.bell.variance))
        return mine(x, sigma)


class Shared(Halves):
    """On one of several processes, of which each has the whole latent: what a sequence-parallel transformer does."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.exchanges = rank, 0

    def forward(self, x, sigma):
        import torch.distributed as ranks

        mine = x.chunk(WORLD, 2)[self.rank]
        mean = mine.mean()
        ranks.all_reduce(mean)  # where attention would be
        velocity = self.of(self.rank, mine, sigma) + 0.01 * mean / WORLD
        parts = [torch.empty_like(velocity) for _ in range(WORLD)]
        ranks.all_gather(parts, velocity)
        self.exchanges += 2
        return torch.cat(parts, 2)


class OwnHalf(Shared):
    """Of which each process keeps its own half of the latent, and AdaCache there sees no more than that."""

    def forward(self, x, sigma):
        import torch.distributed as ranks

        mean = x.mean()
        ranks.all_reduce(mean)
        self.exchanges += 1
        return self.of(self.rank, x, sigma) + 0.01 * mean / WORLD


def sampled(model, x, config):
    """Its latent and what was skipped of it."""
    with AdaCache(model, steps=STEPS, config=config, sigmas=SIGMAS) as run:
        for step, (sigma, following) in enumerate(pairwise(SIGMAS)):
            with run.evaluation(step, sigma):
                velocity = run.velocity(x, lambda x=x, sigma=sigma: model(x, sigma))
            x = x + (following - sigma) * velocity
    return x, run.report


def noise():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def process(rank, store, model, way):
    """What one of the processes does."""
    import torch.distributed as ranks

    ranks.init_process_group("gloo", store=ranks.FileStore(store, WORLD), rank=rank, world_size=WORLD)
    model = {"whole": Shared, "half": OwnHalf}[model](rank)
    x = noise() if type(model) is Shared else noise().chunk(WORLD, 2)[rank]
    latent, report = sampled(model, x, WAYS[way])
    ranks.barrier()
    skipped = [record.step for record in report.evaluations if record.state == "reused"]
    print(json.dumps({"latent": latent.flatten().tolist(), "skipped": skipped, "exchanges": model.exchanges}))
    ranks.destroy_process_group()


def on_both(tmp_path, model, way):
    """What the processes report; fails if one hangs."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path / "store"), model, way],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        said = [each.communicate(timeout=PATIENCE)[0] for each in running]
    finally:
        for each in running:
            each.kill()
    assert [each.returncode for each in running] == [0] * WORLD
    return [json.loads(each) for each in said]


@pytest.mark.parametrize("way", ["auto", "quality"])
def test_where_each_process_has_the_whole_latent_they_decide_alike_and_skipped_steps_exchange_nothing(way, tmp_path):
    first, second = on_both(tmp_path, "whole", way)
    assert first == second
    assert first["skipped"]
    assert first["exchanges"] == 2 * (STEPS - len(first["skipped"]))


def test_where_each_sees_only_its_half_they_would_decide_differently():
    """So on two processes, of which one computes a step and the other does not, the first would wait for ever."""
    halves = Halves()
    skipped = []
    for rank in range(WORLD):
        model = nn.Module()
        model.forward = lambda x, sigma, rank=rank: halves.of(rank, x, sigma)
        _, report = sampled(model, noise().chunk(WORLD, 2)[rank], auto(2.0))
        skipped.append([record.step for record in report.evaluations if record.state == "reused"])
    assert skipped[0] != skipped[1]


def test_a_schedule_settles_it(tmp_path):
    first, second = on_both(tmp_path, "half", "schedule")
    planned = [step for step, computed in enumerate(PLAN) if not computed]
    assert first["skipped"] == planned
    assert first["skipped"] == second["skipped"]
    assert first["exchanges"] == second["exchanges"] == STEPS - len(first["skipped"])
    assert first["latent"] != second["latent"]


if __name__ == "__main__":
    process(int(sys.argv[1]), *sys.argv[2:])
