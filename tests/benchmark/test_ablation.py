"""Each variant of the ablation does what its name says, and gets its own result."""

import pytest
import torch
from benchmark.tiny_wan import tiny_wan

from adacache_core import FAST_30, CacheConfig, Codebook, MotionConfig
from research import demo_model
from research.benchmark import ablation
from research.benchmark.ablation import VARIANTS, measure_ablation, section, translated
from research.benchmark.probed import METRICS, PLACES, USUAL, Probe, cosine_sums, l2_sums, probed
from research.benchmark.videos import CFG, Video

STEPS = 12


def ratio(sums):
    return float(sums[0] / sums[1])


def test_a_change_by_l2_is_the_euclidean_one():
    old, new = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 10.0]])
    assert ratio(l2_sums(new, old)) == pytest.approx(6 / 5)
    assert ratio(METRICS["L1"](new, old)) == pytest.approx(6 / 7)


def test_a_change_by_cosine_sees_direction_and_no_length():
    old = torch.tensor([[1.0, 0.0]])
    assert ratio(cosine_sums(5 * old, old)) == pytest.approx(0, abs=1e-6)
    assert ratio(cosine_sums(torch.tensor([[0.0, 2.0]]), old)) == pytest.approx(1)
    assert ratio(cosine_sums(-old, old)) == pytest.approx(2)


def test_two_conditionings_added_up_give_their_mean_cosine():
    old, turned = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert ratio(cosine_sums(old, old) + cosine_sums(turned, old)) == pytest.approx(0.5)


def test_in_half_precision_large_numbers_do_not_overflow():
    old = torch.full((1, 4), 6e4, dtype=torch.float16)
    assert all(ratio(metric(old / 2, old)) < 1 for metric in METRICS.values())


def test_a_table_is_moved_by_the_power_law_that_both_metrics_follow():
    pairs = [(change, 3 * change**2) for change in (0.01, 0.1, 0.5)]
    moved = translated(Codebook(((0.1, 4), (0.2, 2), (1.0, 1))), pairs)
    assert [threshold for threshold, _ in moved.entries] == pytest.approx([0.03, 0.12, 3.0])
    assert [rate for _, rate in moved.entries] == [4, 2, 1]


@pytest.fixture(scope="module")
def measured():
    """The whole ablation on a tiny model with random weights, one short video."""
    reports = {}
    original = ablation._sample

    def remembering(model, video, config=None, probe=USUAL):
        latent, report = original(model, video, config, probe)
        if config is not None:
            reports[config, probe] = report
        return latent, report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "_sample", remembering)
        video = Video("slow", "circle one red slow right dark", 1, steps=STEPS)
        return measure_ablation(tiny_wan(), [video], calibration=1), reports


def test_the_usual_probe_is_what_the_pack_does_without_one():
    video, model = Video("slow", "circle one red slow right dark", 1, steps=STEPS), tiny_wan()
    config = CacheConfig(FAST_30, MotionConfig())
    _, ours = demo_model.sample(model, video.prompt, video.seed, STEPS, CFG, config)
    with probed(model, video, config) as (evaluate, run):
        demo_model.integrate(evaluate, demo_model.noise_of(video.seed), STEPS)
    assert metrics_of(run.report) == metrics_of(ours)


def test_the_parts_of_a_block_add_up_to_it():
    """Residuals between places of the stream: attention, cross-attention and MLP together make up the middle block."""
    model, video = tiny_wan(), Video("slow", "circle one red slow right dark", 1, steps=STEPS)
    probes = {}
    for place in ("self-attention", "cross-attention", "MLP", "middle block"):
        with probed(model, video, CacheConfig(FAST_30), [Probe(place=place)]) as (evaluate, run):
            with torch.no_grad():
                evaluate(demo_model.noise_of(1), 0, 1.0)
            probes[place] = run.engine.blocks.cache.probe(("probe", "positive"))
    whole = probes.pop("middle block")
    torch.testing.assert_close(sum(probes.values()), whole, rtol=1e-4, atol=1e-5)
    assert all(probe.abs().mean() > 0.01 * whole.abs().mean() for probe in probes.values())


def test_of_several_places_the_mean_of_their_changes_is_taken():
    probe = Probe(place="several blocks")
    old = [torch.ones(1, 2, 4), torch.ones(1, 2, 4), torch.full((1, 2, 4), 100.0)]
    factors = (1.1, 1.2, 1.6)
    sums = probe.sums([(factor * each, each) for factor, each in zip(factors, old, strict=True)])
    assert ratio(sums) == pytest.approx(0.3)
    assert len(PLACES["several blocks"]) == 3


def metrics_of(report):
    return tuple(record.metric for record in report.evaluations if record.metric is not None)


def test_every_departure_reads_other_changes(measured):
    """If a switch for metric, place or motion had no effect, two rows would read the same numbers."""
    _, reports = measured
    without_tables = {(config.moreg, probe): metrics_of(report) for (config, probe), report in reports.items()}
    assert len(without_tables) == 14
    assert len(set(without_tables.values())) == 14


def test_there_is_a_row_for_every_variant_with_what_it_computed(measured):
    stored, _ = measured
    assert [(row["part"], row["variant"]) for row in stored["rows"]] == [(each.part, each.name) for each in VARIANTS]
    assert all(3 <= row["computed"] <= STEPS for row in stored["rows"])
    assert all(row["counted_speedup"] == pytest.approx(STEPS / row["computed"], abs=0.01) for row in stored["rows"])


def test_the_base_is_the_same_row_in_every_part(measured):
    stored, _ = measured
    bases = [row for row in stored["rows"] if row["variant"] in ("L1", "middle block", "without", "fast")]
    results = [{key: value for key, value in row.items() if key not in ("part", "variant")} for row in bases]
    assert len(results) == 4
    assert results.count(results[0]) == 4


def test_the_section_sets_the_papers_figures_beside_ours(measured):
    stored, _ = measured
    row = next(row for row in stored["rows"] if row["variant"] == "without gradient")
    line = next(line for line in section(stored | made()).splitlines() if line.startswith("| without gradient |"))
    assert f"| {row['psnr']:.2f} |" in line
    assert line.endswith("| 83.36 | 89.01 | 4.71 |")


def test_what_the_paper_reports_without_seconds_gets_dashes_and_no_guess(measured):
    stored, _ = measured
    line = next(line for line in section(stored | made()).splitlines() if line.startswith("| cosine |"))
    assert line.endswith("| 83.19 | – | – |")


def made():
    return {"made": dict.fromkeys(("command", "date", "commit", "torch", "machine"), "")}
