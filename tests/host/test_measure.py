"""AdaCache Measure on the demo model: what it measures, what it saves, and what it does not."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from adacache_core.tell.measured import AUTO, PLAIN, QUALITY, Measured

SAID = "words that nobody else may read"
STEPS = 12


@pytest.fixture
def output(host, tmp_path):
    """A folder that is ComfyUI's output folder during this test."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.fixture
def settings():
    positive = [[torch.zeros(1, 6, 4096), {"text": SAID}]]
    negative = [[torch.ones(1, 6, 4096), {}]]
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    names = {"sampler_name": "euler", "scheduler": "simple"}
    given = {"positive": positive, "negative": negative, "latent_image": latent, "seed": 3, "cfg": 4.0}
    return given | names | {"steps": STEPS}


@pytest.fixture
def measure(pack, demo, settings, output):
    """`measure(steps=8)` -> (content of the file, output of the node)."""

    def run(model=demo, **changes):
        before = set(output.rglob("*.json"))
        with torch.inference_mode():
            done = pack.nodes.measure.AdaCacheMeasure.execute(model, **(settings | changes))
        (file,) = set(output.rglob("*.json")) - before
        assert file.read_text() == done.args[2]
        return Measured.from_json(done.args[2]), done

    return run


def sampled(model, settings, **changes):
    """The latent from ComfyUI's own KSampler."""
    import nodes as of_the_host

    with torch.inference_mode():
        return of_the_host.KSampler().sample(model, denoise=1.0, **(settings | changes))[0]["samples"]


def test_the_first_video_is_the_hosts_bit_for_bit_and_the_others_are_what_the_presets_make(
    pack, demo, settings, measure
):
    _, done = measure()
    _, _, _, plain, auto, quality = done.args
    assert torch.equal(plain["samples"], sampled(demo, settings))
    for latent, preset in ((auto, "auto"), (quality, "quality")):
        apply = pack.nodes.apply.AdaCacheApply.execute(demo, preset, 2.0, 0.0, 1.0, 0.5, "main")
        assert torch.equal(latent["samples"], sampled(apply.args[0], settings))
    assert not torch.equal(plain["samples"], auto["samples"])


def test_samplers_that_leave_out_a_noise_level_do_so_here(demo, settings, measure):
    _, done = measure(sampler_name="uni_pc")
    assert torch.equal(done.args[3]["samples"], sampled(demo, settings, sampler_name="uni_pc"))


def test_the_figures_are_those_of_the_videos(demo, measure):
    """Calculated again in another way."""
    found, done = measure()
    plain, *others = ((each["samples"].double().numpy()) for each in done.args[3:])
    mean, deviation = (
        getattr(demo.model.latent_format, name).double().numpy() for name in ("latents_mean", "latents_std")
    )
    inside = [(each - mean) / deviation for each in (plain, *others)]
    for name, other in zip((AUTO, QUALITY), inside[1:], strict=True):
        near = found.runs[name].likeness
        closeness = 10 * math.log10((inside[0] ** 2).mean() / ((inside[0] - other) ** 2).mean())
        frames = [
            10 * math.log10((inside[0][:, :, at] ** 2).mean() / ((inside[0] - other)[:, :, at] ** 2).mean())
            for at in range(3)
        ]
        assert near.closeness == pytest.approx(closeness, abs=0.01)
        assert near.worst_frame_db == pytest.approx(min(frames), abs=0.01)
        assert near.worst_frame == frames.index(min(frames))
        moves = [abs(each[:, :, 1:] - each[:, :, :-1]).mean() for each in (inside[0], other)]
        assert near.motion_kept == pytest.approx(moves[1] / moves[0], rel=1e-4)


def test_the_settings_are_told_and_the_warm_up_is_in_no_run(measure):
    found, _ = measure(title=" mine  ")
    told = found.settings
    assert (told.title, told.model, told.kind) == ("mine", "WanModel", "WAN21_T2V")
    assert (told.sampler, told.scheduler, told.steps, told.cfg, told.shift) == ("euler", "simple", STEPS, 4.0, 8.0)
    assert (told.batch, told.channels, told.frames, told.height, told.width) == (1, 16, 3, 8, 8)
    assert told.device
    assert told.comfyui.count(".") == told.adacache.count(".") == 2
    assert [run.report.total for run in found.runs.values()] == [STEPS] * 3
    assert found.runs[PLAIN].report.computed == STEPS
    assert all(run.seconds > 0 for run in found.runs.values())
    assert [run.report.preset for run in found.runs.values()] == ["off", "auto 2x", "quality 25 dB"]


def test_two_steps_come_first(demo, measure, monkeypatch):
    """So that no run's time includes loading and compiling."""
    import comfy.sample

    asked, real = [], comfy.sample.sample_custom

    def count(model, noise, cfg, sampler, sigmas, *rest, **named):
        asked.append(len(sigmas) - 1)
        return real(model, noise, cfg, sampler, sigmas, *rest, **named)

    monkeypatch.setattr(comfy.sample, "sample_custom", count)
    measure()
    assert asked == [2, STEPS, STEPS, STEPS]


def test_what_a_custom_sampler_takes_is_taken(demo, measure):
    import comfy.samplers

    sigmas = torch.linspace(1, 0, 10)
    found, _ = measure(sampler=comfy.samplers.sampler_object("dpmpp_2m"), sigmas=sigmas)
    assert (found.settings.sampler, found.settings.scheduler, found.settings.steps) == ("dpmpp_2m", None, 9)
    told = [record.sigma for record in found.runs[PLAIN].report.evaluations]
    assert told == pytest.approx(sigmas[:-1].tolist())


def test_where_nothing_is_skipped_the_videos_are_equal(measure, as_short_runs_are):
    found, _ = measure(steps=4)
    assert found.runs[AUTO].report.computed == 4
    assert found.runs[AUTO].likeness.closeness == math.inf
    assert json.loads(found.to_json())["runs"][AUTO]["closeness"] == "inf"


def test_of_samplers_that_draw_noise_nothing_is_expected(measure):
    found, _ = measure(sampler_name="euler_ancestral")
    assert found.runs[AUTO].place is None


def test_neither_file_nor_picture_holds_the_prompt_or_a_place(measure, output):
    found, done = measure()
    assert SAID not in done.args[2]
    assert str(output) not in done.args[2]
    (png,) = output.rglob("*.png")
    with Image.open(png) as picture:
        assert picture.info == {}
    assert png.with_suffix(".json").read_text() == found.to_json()


def test_a_second_measurement_does_not_replace_the_first(measure, output):
    measure()
    measure(seed=4)
    names = sorted(path.name for path in output.rglob("*"))
    assert names == ["adacache_measured"] + [f"measured_0000{n}_.{kind}" for n in (1, 2) for kind in ("json", "png")]


def test_the_videos_stand_side_by_side_in_the_previews_colours_or_as_a_vae_makes_them(pack, demo, measure):
    _, done = measure()
    one = pack.nodes.demo.preview.pictures_of(demo, done.args[3]["samples"])
    assert done.args[1].shape == (len(one), one.shape[1], 3 * one.shape[2], 3)
    assert torch.equal(done.args[1][:, :, : one.shape[2]], one)
    white = SimpleNamespace(decode=lambda samples: torch.ones(len(samples), 9, 16, 24, 3))
    _, done = measure(vae=white)
    assert torch.equal(done.args[1], torch.ones(9, 16, 72, 3))


def test_a_latent_format_without_colours_is_shown_in_grey(demo, measure, monkeypatch):
    monkeypatch.setattr(demo.model.latent_format, "latent_rgb_factors", None)
    videos = measure()[1].args[1]
    assert videos.shape == (3, 8, 24, 3)
    assert (videos == videos[..., :1]).all()


def test_video_with_sound_is_measured(pack, tiny, measure):
    """Closeness is of video and sound, frames are those of the video."""
    both = tiny("LTX-2")
    found, _ = measure(
        both.model, positive=both.positive, negative=both.negative, latent_image={"samples": both.latent}
    )
    video = both.latent.unbind()[0]
    assert found.settings.frames == video.shape[2]
    assert math.isfinite(found.runs[AUTO].likeness.closeness)


def test_beside_another_cache_it_says_that_there_is_nothing_to_measure(pack, demo, measure):
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(demo, 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(pack.adacache_core.AdaCacheError, match=r"nothing to measure: .*EasyCache"):
        measure(cached)


def test_a_broken_video_is_not_measured(pack, demo, measure):
    broken = demo.clone()
    broken.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * math.nan)
    with pytest.raises(pack.adacache_core.AdaCacheError, match="not finite"):
        measure(broken)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sigmas": torch.tensor([1.0, 0.0])}, "too few steps to measure: 1"),
        ({"title": "x" * 101}, "title"),
        ({"title": "a\0"}, "title"),
    ],
)
def test_what_cannot_be_measured_or_written_is_refused_before_anything_runs(pack, measure, changes, said):
    with pytest.raises(pack.adacache_core.AdaCacheError, match=said):
        measure(**changes)


def test_an_adacache_that_is_on_the_model_makes_room(pack, demo, measure):
    with_it = pack.nodes.apply.AdaCacheApply.execute(demo, "auto", 3.0, 0.0, 1.0, 0.5, "main").args[0]
    assert measure(with_it)[0].runs[PLAIN].report.computed == STEPS


def test_ids_and_input_orders_are_frozen(schemas):
    schema = schemas["AdaCacheMeasure"]
    assert [each.id for each in schema.inputs] == [
        *("model", "positive", "negative", "latent_image", "seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("sampler", "sigmas", "vae", "title"),
    ]
    assert [each.display_name for each in schema.outputs] == [
        *("picture", "videos", "report", "plain", "auto", "quality")
    ]
