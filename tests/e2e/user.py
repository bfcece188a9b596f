"""A user at a server, who remembers all that happened and judges nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import psutil  # comes with comfy-cli
import torch
from e2e.prompts import Done, Watch, execute
from e2e.wishes import PLAIN, SMALL, Wish, graph

from adacache_core import RunReport
from tools.host import HostError
from tools.server import Server


@dataclass
class Run:
    """A prompt that was queued and ran: what was asked, and for each seed its video and its report."""

    number: int
    what: str
    wish: Wish
    done: Done
    videos: list[torch.Tensor]
    reports: list[RunReport]

    def __str__(self) -> str:
        return f"run {self.number} ({self.what}): {self.wish}"


class Day:
    """What one user did at this server.

    Attributes:
        runs: that ended well.
        same: two of them each, whose videos must be the same bits.
        failed: what was meant to fail, with the host's words ("" if it did not).
        console: the line that each run with AdaCache should have left; "" where only the server knows it.
        mornings_runs, mornings_memory, evenings_memory: how many runs there had been when a third of the day was over,
            and the bytes that the server held then and at the end.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.runs: list[Run] = []
        self.same: list[tuple[Run, Run]] = []
        self.failed: list[tuple[str, str]] = []
        self.console: list[str] = []
        self.mornings_runs = self.mornings_memory = self.evenings_memory = 0
        self._numbers = count()

    def sample(self, what: str, wish: Wish, same: Run | None = None, prompt: dict | None = None) -> Run:
        number = next(self._numbers)
        done = execute(self.server, prompt or graph(wish, number))
        places = range(len(wish.seeds))
        videos = [done.latent(self.server, f"video {place}") for place in places]
        reports = [done.report_of(f"report {place}") for place in places if wish.preset != PLAIN]
        self.runs.append(Run(number, what, wish, done, videos, reports))
        if same:
            self.same.append((self.runs[-1], same))
        if reports:  # the host chooses which of two samplers comes first
            self.console += [reports[int(sampler.removeprefix("video "))].summary() for sampler in done.steps]
        return self.runs[-1]

    def fail(self, what: str, prompt: dict, watch: Watch = lambda *told: None) -> None:
        said = ""
        try:
            execute(self.server, prompt, watch=watch)
        except HostError as error:
            said = str(error)
        self.failed.append((what, said))

    def memory(self) -> int:
        """Bytes that the server holds when everything but one small run has been forgotten."""
        self.server.free()
        self.sample("a small run", SMALL)
        return psutil.Process(self.server.process).memory_info().rss
