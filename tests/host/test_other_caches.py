"""Other packs' caches on the same model: stand-ins of three kinds, which answer in the model's own forward.

A cache of this kind runs the model for some steps, and answers others itself. Whoever skips blocks beside it spoils
both. So the picture must be that of the other pack alone, bit for bit, and the report must say why.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from host.running import Witness, row_of, sample

KINDS = ("before the head, a stored residual", "before the head, a forecast", "after the head")
STEPS = 24


class Cache:
    """Another pack's cache on a Wan model: a forward of its own that walks the blocks at some steps only.

    Args:
        kind: one of KINDS.
        warm_up: calls of each conditioning before the first answer of its own.
    """

    def __init__(self, module, kind: str, warm_up: int) -> None:
        self.module, self.kind, self.warm_up = module, kind, warm_up
        self.calls = 0
        self.seen: list[tuple] = []

    def forward_orig(self, x, t, context, **kwargs):
        """As the model's own, but for the calls that are answered from what was seen."""
        self.calls += 1
        if self.calls <= self.warm_up or self.calls % 2:
            return self._computed(x, t, context, kwargs)
        into, out, answer = self.seen[-1]
        if self.kind == KINDS[2]:
            return answer
        given = self._stack_input(x, t, context, kwargs)
        if self.kind == KINDS[0]:
            end = given + (out - into)
        else:
            end = out if len(self.seen) < 2 else 2 * out - self.seen[-2][1]
        return self._answered(end, x, t, context, kwargs)

    def _own(self, x, t, context, kwargs):
        return type(self.module).forward_orig(self.module, x, t, context, **kwargs)

    def _computed(self, x, t, context, kwargs):
        passed = {}
        first, last = self.module.blocks[0], self.module.blocks[-1]
        hooks = [
            getattr(first, "inner", first).register_forward_pre_hook(
                lambda _, args, kwargs: passed.update(into=(args[0] if args else kwargs["x"]).clone()),
                with_kwargs=True,
            ),
            getattr(last, "inner", last).register_forward_hook(lambda _, args, out: passed.update(out=out.clone())),
        ]
        answer = self._own(x, t, context, kwargs)
        for hook in hooks:
            hook.remove()
        if passed:  # nothing is noted where somebody has skipped the blocks
            self.seen = [*self.seen[-1:], (passed["into"], passed["out"], answer.clone())]
        return answer

    def _stack_input(self, x, t, context, kwargs):
        class Enough(Exception):
            pass

        class Stop(torch.nn.Module):
            def forward(self, x, *args, **kwargs):
                found.append(x.clone())
                raise Enough

        found, blocks = [], self.module._modules["blocks"]
        self.module._modules["blocks"] = torch.nn.ModuleList([Stop()])
        try:
            self._own(x, t, context, kwargs)
        except Enough:
            pass
        finally:
            self.module._modules["blocks"] = blocks
        return found[0]

    def _answered(self, end, x, t, context, kwargs):
        """The model without blocks, but for the head, which is given `end`."""
        blocks = self.module._modules["blocks"]
        self.module._modules["blocks"] = torch.nn.ModuleList()
        hook = self.module.head.register_forward_pre_hook(lambda _, args: (end.clone(), *args[1:]))
        try:
            return self._own(x, t, context, kwargs)
        finally:
            hook.remove()
            self.module._modules["blocks"] = blocks


def on_the_model(cache: Cache) -> None:
    """Some packs leave their forward on the model: it is there before the run, and stays."""
    cache.module.forward_orig = cache.forward_orig


def for_a_call(model, make: Callable[[], Cache]):
    """Others put it there for the length of each call, from a wrapper round the model."""

    def wrapper(apply, call):
        if "cache" not in vars(wrapper) or float(call["timestep"].max()) >= 1.0:
            wrapper.cache = make()
        on_the_model(wrapper.cache)
        try:
            return apply(call["input"], call["timestep"], **call["c"])
        finally:
            del wrapper.cache.module.forward_orig

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.fixture
def wan(tiny):
    found = tiny("Wan t2v")
    yield found
    vars(found.module).pop("forward_orig", None)


def rows(wan, model, **changes):
    with Witness(wan) as witness:
        video = sample(wan, witness.watched(model), steps=STEPS, **changes)
    return video, witness.row()


SETTINGS = {"auto": {"target": 2.0}, "a rate": {"rate": 3}}
PASSIVE = {"watch": {"watch": True, "target": 2.0}, "off": {"enabled": False}}


@pytest.mark.parametrize("settings", [*SETTINGS, *PASSIVE])
@pytest.mark.parametrize("warm_up", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["ours first", "theirs first", "left on the model"])
def test_beside_another_packs_forward_the_picture_is_that_of_the_other_pack(
    way, kind, warm_up, settings, wan, adacache
):
    config = (SETTINGS | PASSIVE)[settings]

    def cache():
        return Cache(wan.module, kind, warm_up)

    if way == "left on the model":
        on_the_model(cache())
        alone, ran = rows(wan, wan.model)
        on_the_model(cache())
        both, attachment = adacache(wan.model, **config)
    else:
        alone, ran = rows(wan, for_a_call(wan.model, cache))
        if way == "theirs first":
            both, attachment = adacache(for_a_call(wan.model, cache), **config)
        else:
            ours, attachment = adacache(wan.model, **config)
            both = for_a_call(ours, cache)
    assert 0 < sum(computed for _, computed in ran) < STEPS  # it does answer some
    video, row = rows(wan, both)
    assert torch.equal(video, alone)
    assert row == ran
    report = attachment.finished[-1].report
    assert row_of(report) == ran
    assert [record.state == "answered" for record in report.evaluations] == [not computed for _, computed in ran]
    assert report.computed == sum(computed > 0 for _, computed in ran)
    said = [note for note in report.notes if "cannot skip steps" in note]
    if settings == "off":
        assert report.notes == []
    else:
        assert len(said) == 1
        assert said[0].startswith(f"cannot skip steps: {__name__} replaces this model's forward_orig.")


@pytest.mark.parametrize("settings", PASSIVE)
@pytest.mark.parametrize("variant", ["Wan t2v", "HunyuanVideo", "LTX-2", "MiniMax-H3", "SD3", "Cosmos 1"])
def test_watch_and_off_change_nothing_and_their_row_is_what_ran(variant, settings, tiny, adacache):
    model, attachment = adacache(tiny(variant).model, **PASSIVE[settings])
    with Witness(tiny(variant)) as witness:
        video = sample(tiny(variant), witness.watched(model))
    assert torch.equal(video, sample(tiny(variant)))
    assert row_of(attachment.finished[-1].report) == witness.row()
    assert all(record.state == "computed" for record in attachment.finished[-1].report.evaluations)


def test_a_forward_that_is_put_onto_the_class_is_found_too(wan, adacache, monkeypatch):
    cache = Cache(wan.module, KINDS[2], 5)
    cls = type(wan.module)
    monkeypatch.setattr(cls, "forward_orig", cls.forward_orig)

    def forward_orig(self, *args, **kwargs):
        return original(self, *args, **kwargs)

    original = cls.forward_orig
    monkeypatch.setattr(cls, "forward_orig", forward_orig)
    model, attachment = adacache(wan.model, rate=3)
    rows(wan, model)
    assert attachment.finished[-1].report.computed == STEPS
    assert "forward_orig" in attachment.finished[-1].report.notes[0]
    assert cache.calls == 0


@pytest.mark.parametrize("name", ["blocks.1.forward", "blocks.1.self_attn.forward", "head.forward", "rope_encode"])
def test_what_is_replaced_below_or_beside_the_models_forward_is_no_reason_to_stand_down(name, wan, adacache):
    """Patched attention, NAG, RifleX and quantised layers do this."""
    patched = wan.model.clone()
    owner, attribute = name.rsplit(".", 1) if "." in name else ("", name)
    original = getattr(wan.module.get_submodule(owner), attribute)
    patched.add_object_patch(f"diffusion_model.{name}", lambda *args, **kwargs: original(*args, **kwargs))
    model, attachment = adacache(patched, rate=3)
    _, row = rows(wan, model)
    assert attachment.finished[-1].report.notes == []
    assert row_of(attachment.finished[-1].report) == row
    assert sum(computed for _, computed in row) < STEPS


def test_after_the_host_has_taken_an_object_patch_of_the_forward_back_adacache_skips_again(wan, adacache):
    cache = Cache(wan.module, KINDS[2], 5)
    patched = wan.model.clone()
    patched.add_object_patch("diffusion_model.forward_orig", cache.forward_orig)
    sample(wan, patched, steps=STEPS)
    model, attachment = adacache(wan.model, rate=3)
    rows(wan, model)
    assert "forward_orig" in vars(wan.module)  # as the host leaves it: the class's own
    assert attachment.finished[-1].report.notes == []
    assert attachment.finished[-1].report.skipped


def test_an_object_patch_of_the_forward_shows_in_the_first_evaluation(wan, adacache):
    cache = Cache(wan.module, KINDS[2], 5)
    model, attachment = adacache(wan.model, rate=3)
    model.add_object_patch("diffusion_model.forward_orig", cache.forward_orig)
    _, row = rows(wan, model)
    assert row_of(attachment.finished[-1].report) == row
    assert "replaces this model's forward_orig" in attachment.finished[-1].report.notes[0]
