"""Where the video is in the tokens, what the probe looks at, and how much memory is kept."""

from __future__ import annotations

import gc
import math
from itertools import pairwise

import pytest
import torch
from host.running import (
    STEPS,
    Witness,
    blocks_of,
    each,
    holding_no_new_tensor,
    on_call,
    patch_of,
    sample,
    stream_in,
    with_hook,
)
from host.tiny import VARIANTS, Variant
from host.tiny.wan import wan
from torch import Tensor

WITHOUT_GRID = ["LTXV with keyframes", "HiDream E1"]

every_variant = pytest.mark.parametrize("variant", VARIANTS)
with_grid = pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in WITHOUT_GRID])


def first_call(tiny_model):
    """(x, other arguments) of the first model call of a run."""
    from comfy.patcher_extension import WrappersMP

    seen = []

    def keep(executor, x, *args, **kwargs):
        seen.append((x.clone(), args, kwargs))
        return executor(x, *args, **kwargs)

    model = tiny_model.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", keep)
    sample(tiny_model, model)
    return seen[0]


def stack_input(tiny_model, x, args, kwargs):
    seen = []
    block = next(iter(blocks_of(tiny_model.module).values()))
    hook = on_call(
        block,
        lambda block, args, kwargs: seen.append(each(stream_in(tiny_model, args, kwargs))[0].clone()),
        method=tiny_model.variant.method,
    )
    with with_hook(hook), torch.inference_mode():
        tiny_model.model.model.apply_model(x, *args, **kwargs)
    return seen[0]


def video_in(x, kwargs):
    """A view of the video in a latent as the model gets it: (batch, channels, frames, height, width)."""
    if len(kwargs.get("latent_shapes", ())) > 1:  # with the sound behind it, all in a row
        shape = kwargs["latent_shapes"][0][1:]
        return x[:, 0, : math.prod(shape)].unflatten(1, shape)
    return x.view(*x.shape[:2], -1, *x.shape[-2:])  # a picture is a video of one frame


@with_grid
def test_a_change_at_one_place_of_the_latent_moves_exactly_the_token_that_the_grid_says(variant, tiny, pack):
    x, args, kwargs = first_call(tiny(variant))
    before = stack_input(tiny(variant), x, args, kwargs).flatten(1, -2)
    family = pack.nodes.host.families.family_of(type(tiny(variant).module), tiny(variant).module)
    grid = family.grid(tiny(variant).module, x, kwargs)
    assert grid.fits(before.shape[1])

    patch = patch_of(tiny(variant).module)
    frames, height, width = video_in(x, kwargs).shape[2:]
    columns = -(-width // patch[2])
    # Not at row or column 0, which also pad an odd size.
    for frame, row, column in ((0, 1, 1), (frames // 2, height - 1, 1), (frames - 1, 1, width - 1)):
        moved = x.clone()
        video_in(moved, kwargs)[:, :, frame, row, column] += 1
        after = stack_input(tiny(variant), moved, args, kwargs)
        after = after.flatten(1, -2)
        tokens = (after != before).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
        position = row // patch[1] * columns + column // patch[2]
        assert tokens == [grid.begin(before.shape[1]) + frame // patch[0] * grid.positions + position]


@every_variant
def test_motion_is_measured_where_the_frames_are_known_and_the_report_says_so_where_not(variant, tiny, adacache, pack):
    """Change and motion, computed again from the input and output of the probed block, over the tokens of the video."""
    model, attachment = adacache(
        tiny(variant).model, rate=3, probe_stride=1, moreg=pack.adacache_core.MotionConfig(strength=0, window=(0, 1))
    )
    blocks = list(blocks_of(tiny(variant).module))
    depth = sum(name.startswith(blocks[0].split(".")[0]) for name in blocks)
    with Witness(tiny(variant)) as witness:
        sample(tiny(variant), witness.watched(model))
    report = attachment.finished[-1].report

    x, _, kwargs = first_call(tiny(variant))
    grid = pack.nodes.host.families.family_of(type(tiny(variant).module), tiny(variant).module).grid(
        tiny(variant).module, x, kwargs
    )
    probes = {}
    for call in witness.calls:
        if call.computed:
            name = blocks[depth // 2]
            added = (each(call.left[name])[0] - each(call.entered[name])[0]).flatten(1, -2)
            if variant not in WITHOUT_GRID:
                added = added[:, grid.begin(added.shape[1]) :][:, : grid.frames * grid.positions]
            probes.setdefault(call.evaluation, []).append(added)
    probes = {evaluation: torch.cat(added) for evaluation, added in probes.items()}

    assert list(probes) == [0, 1, 4, 7, 8]
    for (before, old), (after, new) in pairwise(probes.items()):
        rate = 1 if before == 0 else 3  # as planned, though the last step was forced
        change = (new - old).abs().sum() / old.abs().sum() / rate
        record = report.evaluations[after]
        assert record.metric == pytest.approx(change.item(), rel=1e-4)
        if variant in WITHOUT_GRID or grid.frames == 1:
            assert record.motion is None
            continue
        frames = new.unflatten(1, (grid.frames, grid.positions))
        later, earlier = frames[:, 1:], frames[:, :-1]
        motion = (later - earlier).abs().sum() / (later.abs().sum() + earlier.abs().sum())
        assert record.motion == pytest.approx(motion.item(), rel=1e-4)
    why = "" if variant in WITHOUT_GRID or grid.frames > 1 else "1 latent frames are not enough for stride 1"
    why = "the frames are not found in the tokens of this model" if variant in WITHOUT_GRID else why
    assert report.notes == [f"MoReg off: {why}"] * bool(why)


@pytest.mark.parametrize("variant", ["LTXV", "LTX-2", "MiniMax-H3"])
def test_blocks_that_work_in_place_are_among_those_tested(variant, tiny):
    """Without one, law 4 would not show that their input is copied in time."""
    block = next(iter(blocks_of(tiny(variant).module).values()))
    before = []

    def enter(block, args, kwargs):
        given = each(stream_in(tiny(variant), args, kwargs))[0]
        before.append((given, given.clone()))

    with with_hook(block.register_forward_pre_hook(enter, with_kwargs=True)):
        sample(tiny(variant), steps=1)
    given, copy = before[0]
    assert not torch.equal(given, copy)


@pytest.mark.parametrize("layers", [4, 40])
def test_between_evaluations_a_conditioning_costs_at_most_one_and_a_quarter_streams(layers, host, adacache):
    """Counts all tensors of the stream's width; the report must say the same."""
    tiny = Variant(wan(layers=layers), size=(4, 8, 16)).build()
    model, attachment = adacache(tiny.model, rate=3)
    sample(tiny, model, steps=1)
    held = []

    def callback(step, *args):
        gc.collect()
        storages = {
            thing.untyped_storage()._cdata: thing.untyped_storage().nbytes()
            for thing in new_objects()
            if issubclass(type(thing), Tensor) and thing.shape[-1:] == (128,)
        }
        held.append(sum(storages.values()))

    with holding_no_new_tensor() as new_objects:
        sample(tiny, model, callback=callback)
    stream = 4 * 4 * 8 * 128 * 4  # tokens x width x bytes
    assert len(held) == STEPS
    assert stream < max(held) / 2 <= 1.25 * stream
    assert attachment.finished[-1].report.cache_bytes_max == max(held)
