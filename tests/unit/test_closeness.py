"""How close a video is, measured and expected, in numbers and in words."""

import math

import pytest
import torch

from adacache_core import AdaCache
from adacache_core.closeness import ABOVE, BELOW, LARGEST, MARKS, STRONG, closeness, closeness_of, deviation_of
from adacache_core.presets import auto, quality

STEPS = 30
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]


def test_closeness_is_the_signal_over_the_error():
    latent = torch.tensor([3.0, -4.0])
    assert closeness(latent, 1.1 * latent) == pytest.approx(20, abs=1e-4)
    assert closeness(latent, 0 * latent) == pytest.approx(0)
    assert closeness(latent, latent) == closeness(0 * latent, 0 * latent) == math.inf
    assert math.isfinite(closeness(0 * latent, latent))


@pytest.mark.parametrize("closeness", [10.0, 18.0, 25.0, 33.0])
def test_what_may_be_wrong_is_the_closeness_the_other_way_round(closeness):
    estimate = closeness_of(deviation_of(closeness))
    assert estimate.db == pytest.approx(closeness)
    assert (estimate.db - estimate.low, estimate.high - estimate.db) == (BELOW, min(ABOVE, LARGEST - closeness))


def test_nothing_is_claimed_beyond_the_largest():
    assert closeness_of(0.0).db == closeness_of(1e-9).db == closeness_of(1e-9).high == LARGEST


def test_with_strong_guidance_the_range_goes_further_down_and_nothing_is_promised():
    usual, strong = (closeness_of(deviation_of(MARKS["good"]), guidance) for guidance in (STRONG - 0.1, STRONG))
    assert (usual.db, usual.high) == (strong.db, strong.high)
    assert strong.low < usual.low
    assert usual.words == "hard to tell apart"
    assert strong.words == "hard to predict at this cfg"


def test_words_change_at_the_marks():
    words = [closeness_of(deviation_of(closeness)).words for closeness in (*MARKS.values(), min(MARKS.values()) - 1)]
    assert len(set(words)) == 4


class Model(torch.nn.Module):
    """A model whose velocity changes with the noise level, the more the larger `hard` is."""

    def __init__(self, hard):
        super().__init__()
        self.hard, self.asked = hard, 0

    def forward(self, x, sigma):
        self.asked += 1
        return -x + self.hard * torch.sin(9 * sigma + torch.arange(64.0))


def sampled(hard, config):
    model, x = Model(hard), torch.randn(64, generator=torch.manual_seed(0))
    with AdaCache(model, steps=STEPS, config=config, sigmas=SIGMAS) as run:
        for step, sigma in enumerate(SIGMAS[:-1]):
            with run.evaluation(step, sigma):
                level = torch.tensor(sigma)
                velocity = run.velocity(x, lambda x=x, level=level: model(x, level))
            x = x + (SIGMAS[step + 1] - sigma) * velocity
    return x, run.report, model.asked


def test_a_closer_video_takes_more_and_is_expected_to_be_closer():
    draft, faithful = (sampled(1.0, quality(MARKS[name])) for name in ("draft", "faithful"))
    assert draft[2] < faithful[2] < STEPS
    assert draft[1].expected_db < faithful[1].expected_db
    assert draft[1].closeness == MARKS["draft"]


def test_a_harder_video_takes_more_for_the_same_quality():
    assert sampled(0.2, quality(25.0))[2] < sampled(2.0, quality(25.0))[2]


def test_the_report_says_what_other_qualities_would_take():
    _, report, asked = sampled(1.0, quality(MARKS["good"]))
    assert list(report.would_take) == list(MARKS)
    assert report.would_take["draft"] <= report.would_take["good"] <= report.would_take["faithful"] <= STEPS
    assert abs(report.would_take["good"] - asked) <= 3


def test_a_run_that_skips_nothing_or_is_not_finished_has_no_estimate():
    assert sampled(1.0, auto(1.0))[1].expected is None
    model = Model(1.0)
    with AdaCache(model, steps=STEPS, config=auto(2.0), sigmas=SIGMAS) as run:
        x = torch.zeros(64)
        for step, sigma in enumerate(SIGMAS[:10]):
            with run.evaluation(step, sigma):
                run.velocity(x, lambda sigma=sigma: model(x, torch.tensor(sigma)))
    assert run.report.skipped
    assert run.report.expected is None


def test_an_estimate_that_is_no_number_is_none():
    _, report, _ = sampled(1.0, auto(2.0))
    assert report.expected is not None
    report.expected_db = math.nan
    assert report.expected is None
