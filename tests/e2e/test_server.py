"""The demo workflow on a real server: run, run again, cancelled, run once more, and what is left of it.

The plain branch must be what a graph without any AdaCache node makes, bit for bit, before and after all of it.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO

import pytest
import torch
from e2e import prompts
from e2e.prompts import Done, cancelling, only, saved_latent, up_to
from e2e.shipped import read_workflow
from PIL import Image

from adacache_core import FAST_30
from tools.host import HostError

STEPS = 12
CANCELLED_STEPS, CANCELLED_AT = 100, 3  # the host does not tell every step; so many that one is told in time


def samplers(prompt: dict) -> tuple[str, str]:
    """Ids of the sampler without AdaCache, and of the one with it."""
    with_it = only(prompt, "AdaCacheApply")
    ids = [node for node, each in prompt.items() if each["class_type"] == "KSampler"]
    return tuple(sorted(ids, key=lambda node: prompt[node]["inputs"]["model"][0] == with_it))


def with_latents(prompt: dict, seed: int, steps: int = STEPS) -> dict:
    """The demo's graph for this seed, with both latents saved as they are."""
    prompt = deepcopy(prompt)
    prompt[only(prompt, "PrimitiveInt")]["inputs"]["value"] = seed
    for node in samplers(prompt):
        prompt[node]["inputs"]["steps"] = steps
        prompt |= saved_latent(node)
    return prompt


def without_adacache(prompt: dict, seed: int) -> dict:
    """The plain branch alone. Its seed is no link, so the host takes nothing from what it keeps of other graphs."""
    prompt = with_latents(prompt, seed)
    plain, _ = samplers(prompt)
    prompt[plain]["inputs"]["seed"] = seed
    return up_to(prompt, f"latent of {plain}")


@pytest.fixture(scope="module")
def execute(server):
    """`execute(prompt)` -> Done; with `stop_in`, a sampler's id, it is cancelled in the middle of that one."""

    def run(prompt: dict, stop_in: str = "", metadata: dict | None = None) -> Done:
        return prompts.execute(server, prompt, metadata, cancelling(server, stop_in, CANCELLED_AT))

    return run


@pytest.fixture(scope="module")
def latent(server):
    """`latent(done, node)` -> what this sampler made, as tensor."""
    return lambda done, node: done.latent(server, node)


@dataclass
class Story:
    """What happened, in this order."""

    unpatched: dict[int, torch.Tensor]  # by seed
    first: Done
    second: Done
    cancelled: str  # the host's words
    third: Done


@pytest.fixture(scope="module")
def story(demo_prompt, execute, latent) -> Story:
    plain, cached = samplers(demo_prompt)
    unpatched = {seed: latent(execute(without_adacache(demo_prompt, seed)), plain) for seed in (1, 2, 4)}
    first, second = (execute(with_latents(demo_prompt, seed)) for seed in (1, 2))
    with pytest.raises(HostError) as stopped:
        execute(with_latents(demo_prompt, 3, CANCELLED_STEPS), stop_in=cached)
    return Story(unpatched, first, second, str(stopped.value), execute(with_latents(demo_prompt, 4)))


def test_without_adacache_the_result_is_the_unpatched_hosts_before_and_after_a_cancelled_prompt(story, latent):
    for seed, done in ((1, story.first), (2, story.second), (4, story.third)):
        plain, cached = samplers(done.prompt)
        assert done.steps[plain] == done.steps[cached] == STEPS, "a sampler did not run"
        assert torch.equal(latent(done, plain), story.unpatched[seed])
    assert not torch.equal(story.unpatched[1], story.unpatched[2])


def test_with_adacache_the_result_is_another_one_and_near(story, latent):
    for seed, done in ((1, story.first), (2, story.second), (4, story.third)):
        _, cached = samplers(done.prompt)
        error = (latent(done, cached) - story.unpatched[seed]).abs().mean() / story.unpatched[seed].abs().mean()
        assert 0 < error < 0.5


def test_a_cancelled_prompt_ends_as_cancelled_and_the_reports_of_others_do_not_tell_of_it(story):
    assert story.cancelled == "KSampler: interrupted"
    for done in (story.first, story.second, story.third):
        assert not [note for note in done.report.notes if not note.startswith("2x would change this video visibly")]
        assert not done.report.stopped


def test_what_came_before_leaves_no_trace_in_what_adacache_makes(story, demo_prompt, execute, latent):
    _, cached = samplers(demo_prompt)
    again = with_latents(demo_prompt, 4)
    again[cached]["inputs"]["seed"] = 4  # no link: to the host another graph, which it must sample anew
    again[only(again, "AdaCacheApply")]["inputs"]["speedup"] = 2.0000001  # a new MODEL that does the same
    done = execute(again)
    assert done.steps[cached] == STEPS
    assert torch.equal(latent(done, cached), latent(story.third, cached))
    assert done.report.schedule() == story.third.report.schedule()


def test_a_second_seed_decides_for_itself(story):
    one, two = (
        [record.error for record in done.report.evaluations if record.error is not None]
        for done in (story.first, story.second)
    )
    assert one
    assert one != two


def test_the_report_counts_what_was_held_within_the_bound(story, latent):
    for done in (story.first, story.second, story.third):
        _, cached = samplers(done.prompt)
        one = latent(done, cached).nbytes
        assert 2 * one <= done.report.cache_bytes_max <= 10 * one


@pytest.fixture(scope="module")
def shipped(demo_prompt, execute) -> Done:
    """The workflow as it is shipped, queued as the frontend does it."""
    return execute(demo_prompt, metadata={"workflow": read_workflow("demo_wan_tiny")})


def test_the_shipped_workflow_computes_about_half_of_its_thirty_steps(shipped):
    assert shipped.report.total == 30
    assert 13 <= shipped.report.computed <= 17


def test_the_papers_workflow_uses_the_published_table_and_moreg(prompt_of, execute):
    report = execute(prompt_of("demo_wan_tiny_paper")).report
    assert (report.codebook, report.target) == (str(FAST_30), None)
    assert report.computed < 15
    assert any(record.moreg not in (None, 1.0) for record in report.evaluations)


def test_both_videos_are_read_back_side_by_side_and_so_is_the_picture(shipped, server):
    (file,) = shipped.outputs[only(shipped.prompt, "AdaCacheCompare")]["images"]
    with Image.open(BytesIO(server.view(file))) as clip:
        assert (clip.format, clip.n_frames) == ("WEBP", 16)
        half = clip.width // 2
        left, right = clip.crop((0, 0, half, clip.height)), clip.crop((half, 0, 2 * half, clip.height))
        assert left.tobytes() != right.tobytes()
    (file,) = shipped.outputs[only(shipped.prompt, "AdaCacheInspector")]["images"]
    with Image.open(BytesIO(server.view(file))) as picture:
        assert picture.width >= 500


@pytest.fixture(scope="module")
def metadata_of(shipped, server):
    """`metadata_of(node)` -> what is written in the one file that this node saved, by name."""

    def read(node: str) -> dict:
        (file,) = shipped.outputs[node]["images"]
        with Image.open(BytesIO(server.view(file))) as saved:
            if saved.format == "PNG":
                return {name: json.loads(text) for name, text in saved.text.items()}
            entries = [text.partition(":") for text in saved.getexif().values()]
            return {name: json.loads(text) for name, _, text in entries}

    return read


def test_the_clip_tells_how_it_was_made(shipped, metadata_of):
    written = metadata_of(only(shipped.prompt, "AdaCacheCompare"))
    assert written["adacache"] == {only(shipped.prompt, "AdaCacheInspector"): json.loads(shipped.report.to_json())}
    assert written["prompt"].keys() == shipped.prompt.keys()
    assert written["workflow"] == read_workflow("demo_wan_tiny")


def test_what_a_saved_file_tells_is_computed_again(shipped, metadata_of, demo_prompt, execute):
    text = json.dumps(metadata_of(only(shipped.prompt, "AdaCacheCompare"))["adacache"])
    prompt = up_to(demo_prompt, only(demo_prompt, "PreviewAny"))
    prompt["from a file"] = {"class_type": "AdaCacheSchedule", "inputs": {"text": text}}
    apply = only(prompt, "AdaCacheApply")
    prompt |= {apply: {**prompt[apply], "inputs": {**prompt[apply]["inputs"], "schedule": ["from a file", 0]}}}
    report = execute(prompt).report
    assert report.preset.startswith(f"schedule: {shipped.report.computed} of 30 steps")
    assert report.schedule().computed == shipped.report.schedule().computed


@pytest.mark.parametrize(
    ("text", "entry"),
    [("0.1:2, 0.05:1", "entry 2"), ("0.1:2, 0.2:two", "0.2:two"), ("0.1:0, 1:1", "entry 1"), ("", "empty")],
    ids=["not rising", "no number", "rate 0", "empty"],
)
def test_a_codebook_that_does_not_parse_is_refused_before_anything_runs(prompt_of, execute, text, entry):
    prompt = prompt_of("demo_wan_tiny_paper")
    # The plain branch is left out: the host runs what is valid of a graph and refuses it only where nothing is.
    prompt = up_to(prompt, only(prompt, "PreviewAny"))
    node = only(prompt, "AdaCacheCodebook")
    prompt[node]["inputs"] |= {"table": "custom", "text": text}
    with pytest.raises(HostError) as caught:
        execute(prompt)
    refused = json.loads(str(caught.value).removeprefix("/prompt: "))["node_errors"]
    assert set(refused) == {node}
    said = " ".join(error["details"] for error in refused[node]["errors"])
    assert entry in said
    assert "0.08:6" in said, "a correct one is shown"


def test_the_log_has_one_line_for_every_run_and_no_traceback(story, shipped, server_folder):
    log = (server_folder / "server.log").read_text()
    for done in (story.first, story.second, story.third, shipped):
        assert f"AdaCache: {done.report.summary()}" in log
    (stopped,) = re.findall(rf"AdaCache: stopped by you at step (\d+) of {CANCELLED_STEPS}", log)
    assert CANCELLED_AT <= int(stopped) < CANCELLED_STEPS
    assert "Traceback" not in log
