"""Methods on ComfyUI's MODEL skip the work and the steps that their authors say; other packs if they are found."""

import math
from itertools import pairwise

import pytest
from benchmark.step_by_step import STEPS, VIDEO, Ran

from adacache_core import auto
from research import demo_model
from research.benchmark import host_caches
from research.benchmark.host_caches import evenly, every, load, old_host, pack_folder, protected
from research.benchmark.library import Unavailable
from research.quality import closeness

START, END = 0.15, 0.95  # of the native nodes
LATENT_BYTES = 4 * math.prod(demo_model.LATENT)


@pytest.fixture(scope="module")
def ran(bench):
    return Ran(bench, (*host_caches.OURS, *host_caches.NATIVES, *host_caches.PACKS))


def test_our_node_computes_the_steps_that_the_core_computes_and_makes_its_video(ran):
    model = demo_model.load("cpu")
    latent, report = demo_model.sample(model, VIDEO.prompt, VIDEO.seed, STEPS, 4.0, auto(2.0))
    found, _ = ran.sample("AdaCache auto", "2x")
    assert ran.computed("AdaCache auto", "2x") == [each.state == "computed" for each in report.evaluations]
    assert 8 < report.computed < STEPS
    assert (latent - found).abs().max() < 1e-3 * latent.abs().max()


@pytest.mark.parametrize(
    ("name", "label", "planned"),
    [("fixed interval (FORA)", "every 3", every(3)), ("AdaCache auto on even steps", "0.33 of all", protected(0.33))],
)
def test_a_fixed_schedule_computes_its_steps_and_no_others(ran, name, label, planned):
    assert {step for step, computed in enumerate(ran.computed(name, label)) if computed} == planned(STEPS)


@pytest.mark.parametrize("share", [0.2, 0.33, 0.5, 0.67, 1.0])
@pytest.mark.parametrize("steps", [8, 20, 30])
def test_even_steps_are_as_many_as_asked_for_with_both_ends_among_them(share, steps):
    chosen = sorted(protected(share)(steps))
    assert len(chosen) == max(round(share * steps), 3)
    assert (chosen[0], *chosen[-2:]) == (0, steps - 2, steps - 1)
    gaps = {after - before for before, after in pairwise(chosen[:-1])}
    assert max(gaps) - min(gaps) <= 1
    assert evenly(steps, steps) == set(range(steps))


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_the_native_caches_skip_the_whole_model_and_protect_both_ends(ran, name):
    computed, work = (what(name, *ran.boldest(name)) for what in (ran.computed, ran.skipped_work))
    assert len(work) >= STEPS // 3
    assert set(work) == {0.0}
    assert all(computed[: math.ceil(START * STEPS)])
    assert all(computed[math.ceil(END * STEPS) :])


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_the_native_caches_make_nearly_the_plain_video(ran, name):
    """If EasyCache could write into the input from which ComfyUI makes its estimate, only 4 dB would be left."""
    (plain, _), (cached, _) = ran.sample(), ran.sample(name, *ran.boldest(name))
    assert closeness(plain, cached) > 15


def test_easycache_holds_a_difference_for_each_conditioning_and_lazycache_one_after_guidance(ran):
    _, plain = ran.sample()
    runs = {name: ran.sample(name, *ran.boldest(name)) for name in ("EasyCache", "LazyCache")}
    held = {name: (steps.held_bytes - plain.held_bytes) / LATENT_BYTES for name, (_, steps) in runs.items()}
    # Beside them a subsample, an eighth in height and width, of the latent and of the output.
    assert held == pytest.approx({"EasyCache": 2, "LazyCache": 1}, abs=0.1)


def test_spectrum_skips_the_blocks_and_computes_its_warm_up(ran, bench):
    try:
        pack_folder(bench, "ComfyUI-Spectrum-WAN-Proper")
    except Unavailable as reason:
        pytest.skip(str(reason))
    run, warmup = ("Spectrum (WAN-Proper)", "window 2, flex 0"), host_caches.SPECTRUM["warmup_steps"]
    assert ran.computed(*run) == [step < warmup or (step - warmup) % 2 == 1 for step in range(STEPS)]
    assert all(0 < work < 0.02 for work in ran.skipped_work(*run))


# Where other packs are found


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A folder without packs, and a ComfyUI that only `find_host` finds."""
    for name in ("COMFYUI_PACKS_PATH", "COMFYUI_OLD_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(host_caches, "find_host", lambda: tmp_path / "comfy" / "ComfyUI")
    (tmp_path / "comfy" / "ComfyUI").mkdir(parents=True)
    return tmp_path / "comfy"


def put(*path):
    folder = path[0].joinpath(*path[1:])
    folder.mkdir(parents=True)
    (folder / "nodes.py").touch()
    return folder


class NoBench:
    def __init__(self, folder):
        self.host = folder


def test_a_pack_is_found_where_it_is_said_to_be_else_beside_the_host_or_in_it(machine, monkeypatch):
    bench = NoBench(machine / "ComfyUI")
    with pytest.raises(Unavailable, match="the pack It is in none of packs, custom_nodes"):
        pack_folder(bench, "It")
    inside = put(machine, "ComfyUI", "custom_nodes", "It")
    assert pack_folder(bench, "It") == inside
    beside = put(machine, "packs", "It")
    assert pack_folder(bench, "It") == beside
    named = put(machine, "elsewhere", "It")
    monkeypatch.setenv("COMFYUI_PACKS_PATH", str(named.parent))
    assert pack_folder(bench, "It") == named
    monkeypatch.setenv("COMFYUI_PACKS_PATH", str(machine))
    with pytest.raises(Unavailable):
        pack_folder(bench, "It")


def make_old(folder, version, packs=("ComfyUI-TeaCache", "magcache")):
    for name in packs:
        put(folder, "custom_nodes", name)
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_the_old_host_is_the_oldest_with_both_packs_or_the_one_that_is_named(machine, monkeypatch):
    make_old(machine / "of one pack", "0.1.0", ["teacache"])
    with pytest.raises(Unavailable, match="COMFYUI_OLD_PATH"):
        old_host()
    newer = make_old(machine / "newer", "0.10.0")
    older = make_old(machine / "older", "0.9.1")
    assert old_host() == older
    monkeypatch.setenv("COMFYUI_OLD_PATH", str(newer))
    assert old_host() == newer
    monkeypatch.setenv("COMFYUI_OLD_PATH", str(machine / "of one pack"))
    with pytest.raises(Unavailable):
        old_host()


def test_without_any_host_there_is_no_old_one(machine, monkeypatch):
    make_old(machine / "older", "0.9.1")
    monkeypatch.setattr(host_caches, "find_host", lambda: None)
    with pytest.raises(Unavailable):
        old_host()


def test_a_pack_is_loaded_once_and_one_that_does_not_import_is_not_here_each_time(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("there = []")
    bad.write_text("import a_module_that_nobody_has")
    assert load(good).there is load(good).there
    for _ in range(2):
        with pytest.raises(Unavailable, match="a_module_that_nobody_has"):
            load(bad)
