"""The compare node, on videos whose figures can be calculated by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from host.running import STEPS


@pytest.fixture(scope="module")
def compared(pack):
    """`compared(reference, changed)` -> (picture, report, psnr, ssim, motion kept, worst frame)."""

    def run(reference, changed, amplify=4.0):
        picture, report, *numbers, _ = pack.nodes.compare.AdaCacheCompare.execute(reference, changed, amplify).args
        return picture, json.loads(report), *numbers

    return run


def moving(frames=4, size=16, by=0.1):
    """(frames, size, size, 3): a ramp that gets brighter by the same amount from frame to frame."""
    ramp = torch.linspace(0, 0.5, size).expand(size, size)
    return torch.stack([ramp + by * frame for frame in range(frames)])[..., None].repeat(1, 1, 1, 3)


def latent(samples):
    return {"samples": samples}


def test_a_video_is_equal_to_itself(compared):
    picture, report, psnr, ssim, motion, _ = compared(moving(), moving())
    assert (psnr, ssim, motion) == (100.0, 1.0, 1.0)
    assert report["temporal_difference"] == 0
    assert report["frames"] == 4
    assert picture.shape == (4, 16, 16, 3)
    assert not picture.any()


def test_one_frame_that_is_off_is_found_and_drawn(compared):
    changed = moving()
    changed[2, :, 8:] += 0.1
    picture, report, psnr, ssim, _, worst = compared(moving(), changed)
    assert worst == 2
    assert report["worst_psnr"] == pytest.approx(23.01, abs=0.01)  # half of it is off by a tenth: -10 log10(0.005)
    assert psnr == pytest.approx((3 * 100 + 23.01) / 4, abs=0.01)
    assert ssim < 1
    assert not picture[2, :, :8].any()
    span = moving().max() - moving().min()
    assert torch.allclose(picture[2, :, 8:], 4 * 0.1 / span, atol=1e-5)


def test_a_video_that_moves_half_as_much_keeps_half_of_the_motion(compared):
    _, report, _, _, motion, _ = compared(moving(by=0.1), moving(by=0.05))
    assert motion == pytest.approx(0.5, rel=1e-5)
    assert report["temporal_difference"] == pytest.approx(0.05, rel=1e-5)


def test_latents_are_compared_in_their_own_range_whatever_that_is(compared):
    drawn = torch.randn(1, 16, 5, 12, 12, generator=torch.Generator().manual_seed(1))
    changed = drawn + 0.1 * torch.randn(1, 16, 5, 12, 12, generator=torch.Generator().manual_seed(2))
    picture, report, *once = compared(latent(drawn), latent(changed))
    (*_,) = twice = compared(latent(7 * drawn - 3), latent(7 * changed - 3))
    assert once == pytest.approx(list(twice[2:]), rel=1e-4)
    assert report["frames"] == 5
    assert report["lpips"] is None
    assert picture.shape == (5, 96, 96, 3)


def test_where_only_the_changed_video_moves_it_keeps_infinitely_much_motion(compared):
    still = moving(by=0.0)
    _, report, _, _, motion, _ = compared(still, moving(by=0.1))
    assert (motion, report["motion_kept"]) == (math.inf, "inf")


def test_one_frame_has_no_motion_to_lose(compared):
    _, report, _, _, motion, _ = compared(moving(1), moving(1) + 0.01)
    assert (motion, report["temporal_difference"]) == (1.0, 0.0)


def test_small_latents_are_compared_in_a_smaller_window(compared):
    drawn = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    _, _, _, ssim, *_ = compared(latent(drawn), latent(drawn + 0.1))
    assert 0 < ssim < 1


def test_of_video_and_sound_the_videos_are_compared(compared):
    nested = pytest.importorskip("comfy.nested_tensor").NestedTensor
    video, sound = torch.randn(1, 4, 3, 12, 12), torch.randn(1, 8, 5)
    _, report, psnr, *_ = compared(latent(nested([video, sound])), latent(nested([video, 2 * sound])))
    assert (report["frames"], psnr) == (3, 100.0)


def test_videos_of_different_sizes_are_refused_with_both(compared, pack):
    with pytest.raises(pack.adacache_core.AdaCacheError, match="4 frames of 16 x 16 and 3 frames of 16 x 16"):
        compared(moving(4), moving(3))


def test_the_perceptual_distance_is_told_where_it_is_installed(compared, monkeypatch, tmp_path, pack):
    import sys
    from types import SimpleNamespace

    class LPIPS:
        def __init__(self, net, verbose):
            assert net == "alex"

        def __call__(self, one, other):
            return (one - other).abs().mean()

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=LPIPS, __spec__=object()))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    video = moving(size=64)
    assert compared(video, video + 0.1)[1]["lpips"] is None  # LPIPS would download its weights
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / pack.nodes.compare.ALEXNET).touch()
    assert compared(video, video + 0.1)[1]["lpips"] == pytest.approx(0.2, rel=1e-4)
    assert compared(latent(video.movedim(-1, 1)), latent(video.movedim(-1, 1)))[1]["lpips"] == 0
    assert compared(moving(), moving())[1]["lpips"] is None  # too small for LPIPS' network


@pytest.fixture
def beside(pack, monkeypatch):
    """The arguments with which the node drew: (frames of both videos, report, likeness)."""
    drawn, real = [], pack.nodes.compare.beside

    def draw(videos, report, likeness):
        drawn.append((videos, report, likeness))
        return real(videos, report, likeness)

    monkeypatch.setattr(pack.nodes.compare, "beside", draw)
    return drawn


def test_both_videos_are_seen_side_by_side_in_the_node_and_in_the_last_output(pack, beside):
    reference, changed = moving(), moving(by=0.05)
    done = pack.nodes.compare.AdaCacheCompare.execute(reference, changed, 4.0, fps=8.0)
    (videos, report, likeness) = beside[0]
    assert (report, likeness) == (None, f"{done.args[2]:.1f} dB PSNR")
    for frames, video in zip(videos, (reference, changed), strict=True):
        shown = torch.stack([torch.from_numpy(np.array(frame)) for frame in frames]) / 255
        assert (shown - video).abs().max() <= 0.5 / 255 + 1e-6
    side_by_side = done.args[-1]
    assert side_by_side.shape[0] == 4
    assert side_by_side.shape[2] > side_by_side.shape[1]
    (file,) = done.ui.as_dict()["images"]
    assert done.ui.as_dict()["animated"] == (True,)
    assert file["filename"].endswith(".webp")


def test_equal_videos_are_called_equal(pack, beside):
    pack.nodes.compare.AdaCacheCompare.execute(moving(), moving(), 4.0)
    assert beside[0][2] == "equal"


def test_latents_without_a_model_are_shown_in_grey(pack, beside):
    samples = torch.randn(1, 16, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    pack.nodes.compare.AdaCacheCompare.execute(latent(samples), latent(samples), 4.0)
    frame = np.array(beside[0][0][0][0])
    assert frame.shape == (6, 6, 3)
    assert (frame == frame[..., :1]).all()


def test_with_the_model_latents_are_compared_as_pictures_and_its_run_is_told(pack, planned, demo, beside):
    """The report is of the run that made the changed latent, although another run came after it."""
    patched, attachment = planned(demo)
    first, second = (denoised(patched, seed) for seed in (1, 2))
    pictures = [pack.nodes.demo.preview.pictures_of(patched, each) for each in (second, first)]
    execute = pack.nodes.compare.AdaCacheCompare.execute
    done = execute(latent(second), latent(first), 4.0, patched)
    assert done.args[2:5] == execute(*pictures, 4.0).args[2:5]
    assert beside[0][1] is attachment.finished[0].report
    execute(*pictures, 4.0, patched)  # no run can be found for pictures, so the newest counts
    assert beside[2][1] is attachment.finished[1].report
    execute(latent(first), latent(torch.zeros_like(first)), 4.0, patched)  # no run made this latent
    assert beside[3][1] is None


def denoised(model, seed):
    import comfy.sample
    import comfy.samplers

    empty, noise = torch.zeros(1, 16, 2, 8, 8), torch.randn(1, 16, 2, 8, 8, generator=torch.manual_seed(seed))
    positive = [[torch.zeros(1, 6, 4096), {}]]
    return comfy.sample.sample(
        model, noise, STEPS, 1.0, "euler", "simple", positive, positive, empty, seed=seed, disable_pbar=True
    )


def test_ids_and_input_orders_are_frozen(pack):
    schema = pack.nodes.compare.AdaCacheCompare.define_schema()
    assert schema.node_id == "AdaCacheCompare"
    assert [each.id for each in schema.inputs] == ["reference", "changed", "amplify", "model", "fps"]
    assert [each.display_name for each in schema.outputs] == [
        *("difference", "report", "psnr", "ssim", "motion_kept", "worst_frame", "side_by_side")
    ]
