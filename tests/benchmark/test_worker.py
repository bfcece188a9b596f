"""What one process of the benchmark measures, and what it leaves out. Its bench samples nothing."""

import math
import time
from dataclasses import replace

import pytest
import torch

from research.benchmark import plan, worker
from research.benchmark.library import OnDiffusers, OnHost, Unavailable
from research.benchmark.plan import Condition
from research.benchmark.records import BROKEN, PLAIN

GONE = "of a pack that is not here"
CASES = plan.cases("demo", Condition("euler", 4, 8.0, 4.0), 0)[:2]
METHODS = (OnHost("a", {"safe": 1, "bold": 2}), OnHost("b", {"only": 3}))


class Bench:
    """Returns the same for the plain video and for every other one, and stores the requests."""

    name = "a host"

    def __init__(self, spread=1.0):
        self.asked = []
        self.spread = spread

    def sample(self, case, meter, method=worker.PLAIN_RUN, setting=None):
        if setting is GONE:
            raise Unavailable("the pack is not here")
        self.asked.append((case.seed, method.name, setting))
        plain = method.name == PLAIN
        meter.flops, meter.block_calls, meter.seconds, meter.held_bytes = (
            (100, 10, 4.0, 1000) if plain else (50, 4, 3.0, 1500)
        )
        noise = torch.randn(case.subject.latent, generator=torch.Generator().manual_seed(case.seed))
        return self.spread * noise * (1 if plain else 1.1)


@pytest.fixture(autouse=True)
def plains(monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "PLAINS", tmp_path / "plains")
    return worker.PLAINS


def measured(bench, methods=METHODS, cases=CASES, done=(), deadline=math.inf, library="host"):
    return list(worker.measured(bench, library, methods, cases, set(done), deadline))


def named(records):
    return [(record.seed, record.method, record.setting) for record in records]


def test_of_each_video_the_plain_one_comes_first_and_then_every_setting_of_every_method():
    first, second = (case.seed for case in CASES)
    each = [(PLAIN, ""), ("a", "safe"), ("a", "bold"), ("b", "only")]
    assert named(measured(Bench())) == [(seed, *what) for seed in (first, second) for what in each]


def test_a_record_says_what_was_made_and_how_it_compares_with_plain():
    plain, record, *_ = measured(Bench())
    assert (record.model, record.condition, record.motion_class) == ("demo", "euler 4, shift 8, cfg 4", "static")
    assert record.library == plain.library == "a host"
    assert (record.work, record.blocks, record.time, record.bytes) == (0.5, 0.4, 0.75, 500)
    assert record.closeness == pytest.approx(20, abs=1e-3)  # a tenth of it is the error
    assert (plain.work, plain.blocks, plain.time, plain.bytes) == (1, 1, 1, 0)
    assert (plain.psnr, plain.worst_frame, plain.motion_kept, plain.lpips) == (50, 50, 1, 0)
    assert plain.ssim == pytest.approx(1)
    assert record.psnr < 50
    assert record.lpips > 0


def test_what_is_done_is_not_made_again_and_where_all_is_done_not_even_the_plain_video():
    made, bench = measured(Bench()), Bench()
    first, second = (case.seed for case in CASES)
    done = {record.key for record in made if record.seed == first or record.setting == "safe"}
    assert named(measured(bench, done=done)) == [(second, PLAIN, ""), (second, "a", "bold"), (second, "b", "only")]
    assert first not in {seed for seed, *_ in bench.asked}


@pytest.mark.parametrize("spread", [0.1, 3.0, math.nan])
def test_of_a_broken_plain_video_there_is_that_record_and_no_other(spread):
    bench = Bench(spread)
    records = measured(bench)
    assert named(records) == [(case.seed, PLAIN, BROKEN) for case in CASES]
    assert {method for _, method, _ in bench.asked} == {PLAIN}


@pytest.mark.parametrize(
    ("latent", "broken"),
    [
        (torch.linspace(-2, 2, 100), False),
        (torch.linspace(-5, 5, 100), True),
        (torch.full((100,), 2.0), True),
        (torch.full((100,), torch.nan), True),
        (torch.tensor([0.0, 1.0, -1.0, torch.inf]), True),
    ],
)
def test_a_video_is_broken_if_it_is_noise_or_faded_or_no_number(latent, broken):
    assert worker.is_broken(latent) == broken


def test_a_plain_video_comes_from_the_disk_if_the_same_was_made_before(monkeypatch):
    (case, _), first, again = CASES, Bench(), Bench()
    expected = measured(first, cases=[case])
    assert measured(again, cases=[case]) == expected
    assert (case.seed, PLAIN, None) in first.asked
    assert again.asked == [asked for asked in first.asked if asked[1] != PLAIN]


@pytest.mark.parametrize("changed", ["checkpoint", "host", "condition", "library"])
def test_another_plain_video_is_made_anew(monkeypatch, changed):
    case, bench, library = CASES[0], Bench(), "host"
    measured(bench, cases=[case])
    bench.asked.clear()
    if changed == "checkpoint":
        monkeypatch.setattr(worker, "_checkpoint", lambda case: "another")
    if changed == "host":
        bench.name = "a newer host"
    if changed == "condition":
        case = replace(case, condition=replace(case.condition, scheduler="beta"))
    if changed == "library":
        library = "diffusers"
    measured(bench, cases=[case], library=library)
    assert (case.seed, PLAIN, None) in bench.asked


def test_what_is_not_here_is_said_once_and_keeps_nobody_else_from_running(capsys):
    methods = (OnHost("gone", {"x": GONE, "y": GONE}), OnHost("here", {"z": 1}))
    records = measured(Bench(), methods)
    assert [(record.method, record.setting) for record in records] == 2 * [(PLAIN, ""), ("here", "z")]
    assert capsys.readouterr().err.count("gone: not run, the pack is not here") == 1


def test_behind_the_deadline_no_method_is_run():
    bench = Bench()
    assert {record.method for record in measured(bench, deadline=time.monotonic() - 1)} == {PLAIN}
    assert {method for _, method, _ in bench.asked} == {PLAIN}


def test_methods_are_run_where_they_fit_alone():
    unguided = replace(CASES[0], condition=replace(CASES[0].condition, cfg=1.0))
    methods = (OnDiffusers("needs guidance", {"x": 1}, needs_guidance=True), OnDiffusers("needs none", {"y": 1}))
    assert [record.method for record in measured(Bench(), methods, [unguided])] == [PLAIN, "needs none"]
    assert not measured(Bench(), [methods[0]], [unguided])


@pytest.mark.parametrize(("settings", "label"), [({"x": 1}, "x"), ({"x": 1, "y": 2, "z": 3}, "y")])
def test_the_middle_of_a_method_is_one_setting_of_it(settings, label):
    assert worker.middle(OnHost("a", settings)) == OnHost("a", {label: settings[label]})


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], ["AdaCache", "AdaCache fast", "EasyCache", "SeaCache"]),
        (["Easy", "Sea"], ["EasyCache", "SeaCache"]),
        (["AdaC"], ["AdaCache", "AdaCache fast"]),
        (["AdaCache"], ["AdaCache"]),
        (["AdaCache", "Sea"], ["AdaCache", "SeaCache"]),
    ],
)
def test_methods_are_chosen_by_their_names_or_else_by_parts_of_them(parts, expected):
    methods = [OnHost(name, {}) for name in ("AdaCache", "AdaCache fast", "EasyCache", "SeaCache")]
    assert [method.name for method in worker.chosen(methods, parts)] == expected


def test_no_two_methods_of_all_libraries_have_one_name():
    names = [method.name for library in worker.LIBRARIES for method in worker.methods_of(library)]
    assert len(names) == len({*names})
    assert all(name != PLAIN for name in names)
