"""A day in the life of one server: queued, changed, cancelled, mistaken, freed and queued again, in an order of chance.

What a user must never notice: that there was anything before. The events come first, then what is true of all of them.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import safetensors.torch
import torch
from e2e.prompts import cancelling
from e2e.user import Day, Run
from e2e.wishes import PLAIN, SMALL, Wish, a_wish, graph, node

from adacache_core import RunReport, Schedule
from tools.server import serve

DICE = 20260

# Made again and again, with AdaCache and without.
REFERENCES = [
    SMALL,
    Wish((96, 128, 21), 2, 10, "heun", 1.0, "square", "fast", 2.0, "offload", True, False, True, (2,)),
    Wish((128, 128, 29), 1, 10, "dpmpp_2m", 4.0, "triangle", "auto", 2.5, "main", False, False, False, (3,)),
]
# Refused before anything runs.
MISTAKES = [
    {"preset": "quick"},
    {"speedup": 9.0},
    {"cache_device": "cellar"},
    {"start_percent": 0.9, "end_percent": 0.1},
]
FOUR_CHANNELS = "four channels.latent"  # the model has 16
CANCELLED_STEPS = 60  # the host does not tell every step; so many that one is told in time


def settings_changed(day: Day, wish: Wish, dice: Random) -> None:
    day.sample("other settings", wish)


def queued_twice(day: Day, wish: Wish, dice: Random) -> None:
    first = day.sample("queued", wish)
    day.sample("queued again", wish, first, first.done.prompt)


def node_bypassed(day: Day, wish: Wish, dice: Random) -> None:
    wish = replace(wish, preset=dice.choice(["auto", "fast"]))
    cached = day.sample("with the node", wish)
    plain = day.sample("without the node", replace(wish, preset=PLAIN))
    day.sample("with the node off", replace(wish, preset="off"), plain)
    day.sample("with the node back", wish, cached)


def model_shared(day: Day, wish: Wish, dice: Random) -> None:
    seeds = (*wish.seeds, 1000)
    both = day.sample("two samplers on one model", replace(wish, seeds=seeds))
    for place, seed in enumerate(seeds):
        alone = day.sample("one of the two samplers", replace(wish, seeds=(seed,)))
        day.same.append((alone, replace(both, videos=both.videos[place : place + 1])))


def schedule_replayed(day: Day, wish: Wish, dice: Random) -> None:
    wish = replace(wish, preset="auto", sampler="euler", codebook=False)  # what a schedule does not tell, is the same
    first = day.sample("to be replayed", wish)
    day.sample("replayed", replace(wish, schedule=first.reports[0].schedule().to_json()), first)


def cancelled(day: Day, wish: Wish, dice: Random) -> None:
    wish = replace(wish, steps=CANCELLED_STEPS)
    day.console.append("")
    day.fail("cancelled", graph(wish, 0), cancelling(day.server, "video 0", dice.randrange(1, 9)))


def memory_freed(day: Day, wish: Wish, dice: Random) -> None:
    day.server.free()
    day.sample("after all was freed", wish)


def mistaken(day: Day, wish: Wish, dice: Random) -> None:
    for mistake in MISTAKES:
        prompt = graph(replace(wish, preset="auto"), 0)
        prompt["apply"]["inputs"] |= mistake
        day.fail("mistaken", prompt)


def schedule_broken(day: Day, wish: Wish, dice: Random) -> None:
    day.fail("schedule broken", graph(replace(wish, preset="auto", schedule="every other step"), 0))


def latent_of_another_model(day: Day, wish: Wish, dice: Random) -> None:
    prompt = graph(replace(wish, preset="auto"), 0)
    prompt["empty"] = node("LoadLatent", latent=FOUR_CHANNELS)
    day.console.append("")
    day.fail("latent of another model", prompt)


EVENTS = {
    settings_changed: 8,
    queued_twice: 2,
    node_bypassed: 2,
    model_shared: 2,
    schedule_replayed: 2,
    cancelled: 3,
    memory_freed: 2,
    mistaken: 2,
    schedule_broken: 2,
    latent_of_another_model: 2,
}
# What is meant to fail: how the host says so, and how the traceback that it then logs ends, if it logs one.
FAILURES = {
    "cancelled": ("KSampler: interrupted", ""),
    "mistaken": ('/prompt: {"error": {"type": "prompt_outputs_failed_validation"', ""),
    "schedule broken": ("AdaCacheSchedule: ", "AdaCacheError"),
    "latent of another model": ("KSampler: ", "RuntimeError"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("day")


@pytest.fixture(scope="module")
def server(comfyui, folder):
    """One whose big tensors go back to the system as soon as they are dropped, or memory would not tell of leaks."""
    (folder / "input").mkdir()
    safetensors.torch.save_file({"latent_tensor": torch.ones(1, 4, 8, 16, 16)}, folder / "input" / FOUR_CHANNELS)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MALLOC_MMAP_THRESHOLD_", str(2**15))  # glibc's; elsewhere nobody asks for it
        with serve(comfyui, folder) as running:
            yield running


@pytest.fixture(scope="module")
def day(server) -> Day:
    dice, day = Random(DICE), Day(server)
    references = [wish for each in REFERENCES for wish in (replace(each, preset=PLAIN), each)]
    morning = [day.sample("morning", wish) for wish in references]
    events = [event for event, times in EVENTS.items() for _ in range(times)]
    dice.shuffle(events)
    for number, event in enumerate(events):
        if number == len(events) // 3:
            day.mornings_memory, day.mornings_runs = day.memory(), len(day.runs)
        if number == len(events) // 2:
            for first in morning[::2]:
                day.sample("noon", first.wish, first)
        event(day, a_wish(dice), dice)
    for first in morning:
        day.sample("evening", first.wish, first)
    day.evenings_memory = day.memory()
    return day


def reports(day: Day) -> list[tuple[Run, RunReport]]:
    """Of all runs with AdaCache."""
    return [(run, report) for run in day.runs for report in run.reports]


def test_what_is_asked_again_is_made_again_bit_for_bit_and_off_or_bypassed_is_the_plain_video(day):
    assert len(day.same) > 3 * len(REFERENCES)
    for again, first in day.same:
        assert again.number != first.number
        for one, other in zip(again.videos, first.videos, strict=True):
            assert torch.equal(one, other), f"{again}\nis not {first}"


def test_only_what_is_queued_twice_is_taken_from_the_hosts_cache(day):
    for run in day.runs:
        sampled = {} if run.what == "queued again" else {f"video {n}": run.wish.steps for n in range(len(run.videos))}
        assert run.done.steps == sampled, run


def test_every_report_is_of_its_own_run(day):
    for run, report in reports(day):
        assert (report.sampler_steps, report.total) == (run.wish.steps, run.wish.evaluations), run
        assert report.preset.startswith(run.wish.name), run
        assert not [note for note in report.notes if "newest run" in note], run
        assert report.computed == report.total or report.cache_bytes_max > 0, run
        assert run.wish.preset != "off" or report.computed == report.total, run


def test_auto_computes_about_as_many_steps_as_were_asked_for_or_more_and_says_why(day):
    seen, why = 0, ("cannot be reached", "would change this video visibly", "draws fresh noise, so")
    for run, report in reports(day):
        if report.target is not None and not run.wish.schedule and run.wish.preset == "auto":
            asked, computed = run.wish.steps / run.wish.speedup, sum(report.schedule().computed)
            more_is_explained = any(each in note for each in why for note in report.notes)
            assert computed >= asked - max(2, 0.25 * asked), run
            assert more_is_explained or computed <= asked + max(2, 0.25 * asked), run
            seen += 1
    assert seen >= 10


def test_a_replayed_schedule_computes_what_it_says(day):
    replayed = [(run, report) for run, report in reports(day) if run.wish.schedule]
    assert replayed
    for run, report in replayed:
        assert report.schedule().computed == Schedule.from_json(run.wish.schedule).computed, run


def test_what_is_meant_to_fail_fails_with_a_sentence(day):
    assert {what for what, _ in day.failed} == set(FAILURES)
    for what, said in day.failed:
        begin, _ = FAILURES[what]
        assert said.startswith(begin), (what, said)
        assert len(said) > len(begin) or what == "cancelled", what


def test_the_log_has_one_line_for_each_run_in_order_and_no_traceback_but_of_what_was_meant_to_fail(day, folder):
    log = (folder / "server.log").read_text(errors="replace")
    lines = re.findall(r"AdaCache: ((?:stopped by .*)?\d+ of \d+ evaluations computed.*)", log)
    assert len(lines) == len(day.console)
    for number, (line, expected) in enumerate(zip(lines, day.console, strict=True)):
        assert expected in ("", line), f"line {number}"
    ends = re.findall(r"^.*Traceback .*\n(?:[ \t].*\n|\n)*(\S+?):", log, re.MULTILINE)
    expected = Counter(FAILURES[what][1] for what, _ in day.failed)
    del expected[""]
    assert Counter(end.rsplit(".", 1)[-1] for end in ends) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="no glibc, whose malloc can be told to give back what is freed")
def test_a_run_leaves_nothing_in_memory(day):
    """The bound is half of what it would be, had each run kept one residual, or with auto the latents that it held."""
    kept = 0
    for run, report in reports(day):
        if run.number >= day.mornings_runs and run.done.steps and report.cache_bytes_max:
            if report.reuse == "blocks":
                assert run.wish.residual_bytes < report.cache_bytes_each, run
            kept += run.wish.residual_bytes if report.reuse == "blocks" else report.cache_bytes_max
    grown = day.evenings_memory - day.mornings_memory
    assert grown < kept / 2, f"{grown / 2**20:.1f} MiB more; what one of each run held is {kept / 2**20:.1f} MiB"
