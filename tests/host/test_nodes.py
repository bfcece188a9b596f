"""AdaCache, codebook, MoReg, schedule and inspector: what they make of their inputs, and say to wrong ones."""

from __future__ import annotations

import json
import re
from inspect import getfullargspec
from types import SimpleNamespace

import pytest
import torch
from host.running import STEPS, Witness, row_of, sample
from torch import nn

WAN = "Wan t2v"


@pytest.fixture
def nodes(pack, tmp_path):
    """The pack's nodes; pictures go to a folder of the test's own."""
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    yield pack.nodes
    folder_paths.set_temp_directory(before)


@pytest.fixture
def apply(nodes):
    def execute(model, preset="fast", start=0.0, end=1.0, position=0.5, device="main", speedup=2.0, **optional):
        settings = (preset, speedup, start, end, position, device)
        return nodes.apply.AdaCacheApply.execute(model, *settings, **optional).args[0]

    return execute


@pytest.fixture
def attachment_of(nodes):
    return nodes.host.attach.attachment_of


def bare(kind):
    """An instance of a class too big to build."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=module))


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel"),
        ("comfy.ldm.audio.dit", "AudioDiffusionTransformer"),
    ],
)
def test_a_model_that_is_not_known_is_refused_with_what_is_known_and_a_way_out(file, kind, apply, host, pack):
    import importlib

    with pytest.raises(pack.adacache_core.AdaCacheError) as raised:
        apply(bare(getattr(importlib.import_module(file), kind)))
    said = str(raised.value)
    assert kind in said
    assert all(family.name in said for family in pack.nodes.host.families.FAMILIES)
    assert said.index("Use preset auto or quality, which work on any model") < said.index("The other presets work on")


@pytest.mark.parametrize("preset", ["fast", "slow", "watch"])
def test_what_looks_at_blocks_refuses_a_model_that_is_not_known(preset, apply, tiny, pack):
    stranger = type("Stranger", (nn.Module,), {})
    with pytest.raises(pack.adacache_core.AdaCacheError, match="cannot find the blocks of Stranger"):
        apply(bare(stranger), preset)


@pytest.mark.parametrize(
    ("file", "kind", "why"),
    [
        ("comfy.ldm.wan.ar_model", "CausalWanModel", "one frame after another"),
        ("comfy.ldm.seedvr.model", "NaDiT", "a single step"),
    ],
)
def test_a_model_that_is_left_out_on_purpose_is_refused_with_the_reason(file, kind, why, apply, host, pack):
    module = pytest.importorskip(file)
    with pytest.raises(pack.adacache_core.AdaCacheError, match=f"does not work with {kind}: .*{why}.* Bypass"):
        apply(bare(getattr(module, kind)))


@pytest.mark.parametrize("where", ["base class", "structure"])
def test_a_new_model_is_taken_for_one_that_is_built_alike_and_proved(where, tiny, adacache):
    made = tiny(WAN).variant.build()
    renewed(made.module, where)
    model, attachment = adacache(made.model, rate=3)
    with Witness(made) as witness:
        video = sample(made, witness.watched(model))
    report = attachment.finished[-1].report
    assert (report.model, report.family, report.skipped > 0) == ("New", "Wan", True)
    assert report.notes == ["this model is new to AdaCache, which treats it like Wan and checks that at step 1"]
    assert len(witness.proofs) == 1
    assert row_of(report) == witness.row()
    known, _ = adacache(tiny(WAN).model, rate=3)
    assert torch.equal(video, sample(tiny(WAN), known))


def test_a_new_model_that_cannot_be_proved_is_computed_and_it_is_said(tiny, adacache):
    from comfy.patcher_extension import WrappersMP

    made = tiny(WAN).variant.build()
    renewed(made.module, "structure")
    model, attachment = adacache(made.model, rate=3)
    model.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "theirs", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    )
    assert torch.equal(sample(made, model), sample(made))
    report = attachment.finished[-1].report
    assert report.computed == report.total
    assert report.notes[0].startswith(
        "cannot skip steps: this model is new to AdaCache, which cannot check it beside functions of others"
    )


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (0.0, r"skipping the blocks of this model would not give its answer \(.*% off\)"),
        (None, r"this model fails without its blocks \(IndexError: .*\)"),
    ],
)
def test_a_new_model_that_takes_something_past_its_blocks_is_computed_and_it_is_said(without, said, tiny, adacache):
    """It adds to its answer what its first block said; what it does without one is given."""
    made = tiny(WAN).variant.build()
    renewed(made.module, "structure", [] if without is None else [torch.tensor(without)])
    model, attachment = adacache(made.model, rate=3)
    assert torch.equal(sample(made, model), sample(made))
    report = attachment.finished[-1].report
    assert report.computed == report.total
    assert re.fullmatch(f"cannot skip steps: {said}", report.notes[0])


def renewed(module, where, past=None):
    """Makes the Wan of a class that no row names.

    Args:
        where: how it is to be known again.
        past: what the first block says is put in here, and the last of it is added to the answer.
    """
    wan, home = type(module), "comfy.ldm.new.model"
    own = {name: value for name, value in vars(wan).items() if not name.startswith("__")}  # a Wan's, of no Wan

    def forward(self, *args, **kwargs):
        before = len(past)
        answer = wan.forward(self, *args, **kwargs) + past[-1]
        del past[before:]
        return answer

    if past is not None:
        module.blocks[0].register_forward_hook(lambda block, args, output: past.append(output.abs().mean()))
        forward.__module__, own["forward"] = home, forward
    base, own = (wan, {}) if where == "base class" else (nn.Module, own)
    module.__class__ = type("New", (base,), {**own, "__module__": home})


def test_a_class_that_another_node_puts_in_the_models_place_is_named_with_its_module(apply, tiny, pack):
    """RES4LYF's ReWanPatcher does this, with an object patch that the host applies when it loads the model."""
    theirs = type("ReWanModel", (torch.nn.Module,), {"__module__": "/x/custom_nodes/RES4LYF.wan.model"})
    made = tiny(WAN).variant.build()
    made.module.head_of_theirs = made.module._modules.pop("head")
    model = made.model.clone()
    model.add_object_patch("diffusion_model.__class__", theirs)
    with pytest.raises(pack.adacache_core.AdaCacheError) as refused:
        apply(model)
    said = str(refused.value)
    assert said.startswith("AdaCache cannot find the blocks of WAN21_T2V (ReWanModel from RES4LYF.wan.model). Use")


def test_a_class_that_is_put_there_after_adacache_makes_it_stand_down(apply, tiny, attachment_of):
    theirs = type("ReWanModel", (type(tiny(WAN).module),), {"__module__": "/x/custom_nodes/RES4LYF.wan.model"})
    model = apply(tiny(WAN).model)
    model.add_object_patch("diffusion_model.__class__", theirs)
    assert torch.equal(sample(tiny(WAN), model), sample(tiny(WAN)))
    (note,) = attachment_of(model).finished[-1].report.notes
    assert note == "cannot skip steps: RES4LYF.wan.model replaces this model with its own ReWanModel"


@pytest.mark.parametrize("preset", ["auto", "quality"])
def test_a_class_of_a_custom_node_whose_forward_is_its_own_is_no_reason_to_stand_down(
    preset, apply, tiny, attachment_of
):
    """Its name is a path, as the host names custom nodes by their folders; so is that of its functions."""
    home = "/x/custom_nodes/RES4LYF.wan.model"
    made = tiny(WAN).variant.build()

    def forward(self, *args, **kwargs):
        return type(tiny(WAN).module).forward(self, *args, **kwargs)

    forward.__module__ = home
    patched = made.model.clone()
    theirs = type("ReWanModel", (type(made.module),), {"__module__": home, "forward": forward})
    patched.add_object_patch("diffusion_model.__class__", theirs)
    model = apply(patched, preset)
    sample(made, model)
    report = attachment_of(model).finished[-1].report
    assert report.family == ""  # it has no row
    assert not [note for note in report.notes if "cannot skip steps" in note]


def test_the_inputs_of_the_adacache_node_are_in_the_settings_of_its_runs(apply, attachment_of, tiny, pack):
    core = pack.adacache_core
    config = attachment_of(apply(tiny(WAN).model, "slow", 0.1, 0.9, 0.25, "offload")).config
    assert config == core.CacheConfig(core.SLOW_30, start=0.1, end=0.9, probe_position=0.25, offload=True)
    own, moreg = core.Codebook(((0.5, 3), (1.0, 1)), 20), core.MotionConfig(strength=2)
    config = attachment_of(apply(tiny(WAN).model, codebook=own, moreg=moreg)).config
    assert config == core.CacheConfig(own, moreg)


def test_preset_off_computes_everything_even_with_a_codebook(apply, attachment_of, tiny, pack):
    wan, core = tiny(WAN), pack.adacache_core
    model = apply(wan.model, "off", codebook=core.Codebook(((1.0, 5),), STEPS))
    assert torch.equal(sample(wan, model), sample(wan))
    report = attachment_of(model).finished[-1].report
    assert (report.computed, report.total, report.preset) == (STEPS, STEPS, "off")


def test_the_probe_position_says_which_block_is_watched(apply, attachment_of, tiny, pack):
    wan, core = tiny(WAN), pack.adacache_core
    metrics = []
    for position in (0.0, 0.5, 1.0):
        model = apply(wan.model, position=position, codebook=core.Codebook(((0.0, 2), (1.0, 1)), STEPS))
        sample(wan, model)
        metrics.append(attachment_of(model).finished[-1].report.evaluations[1].metric)
    assert len(set(metrics)) == 3


def test_start_behind_end_is_said_before_anything_runs(nodes):
    check = nodes.apply.AdaCacheApply.validate_inputs
    assert check(start_percent=0.2, end_percent=0.8) is True
    assert check(start_percent=0.5, end_percent=0.5) is True
    assert "0.8" in check(start_percent=0.8, end_percent=0.2)
    assert check(start_percent=None, end_percent=0.2) is True  # connected: not known yet


def test_ranges_and_options_are_left_to_the_host_where_our_own_checks_do_not_need_the_input(nodes):
    kinds = [each for each in vars(nodes).values() if isinstance(each, type) and "validate_inputs" in vars(each)]
    assert len(kinds) == 4
    for kind in kinds:
        assert getfullargspec(kind.validate_inputs).varkw is None, f"the host checks nothing of {kind}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("  { } ", "empty"),
        ("0.08:6, 0.04:5", "entry 2"),
        ("0.08:6, 0.08:5", "entry 2"),
        ("0.08:0", "entry 1"),
        ("0.08:-2", "entry 1"),
        ("0.08:6, 0.16:2.5", "entry 2"),
        ("nan:6", "entry 1"),
        ("0.08:nan", "entry 1"),
        ("0.08:inf", "entry 1"),
        ("0.08:6, fast", "entry 2"),
        ("0.08:6 0.16:5", "entry 1"),
        ("0.08:6,, 0.16:5", "entry 2"),
        ("0.08=6", "entry 1"),
        ("Ünsinn", "entry 1"),
    ],
)
def test_a_codebook_that_cannot_be_read_is_named_with_its_entry_and_a_correct_one(text, said, nodes, pack):
    message = nodes.codebook.AdaCacheCodebook.validate_inputs(table="custom", text=text)
    assert said in message
    assert "0.08:6, 0.16:5" in message
    with pytest.raises(pack.adacache_core.AdaCacheError) as raised:  # text that was connected is first seen here
        nodes.codebook.AdaCacheCodebook.execute("custom", text, 0, 1.0)
    assert str(raised.value) == message
    assert nodes.codebook.AdaCacheCodebook.validate_inputs(table="fast, 30 steps", text=text) is True


@pytest.mark.parametrize("text", ["1:3", "{0.08: 6, 0.16: 5}", ", ".join(f"{n / 1e4}:2" for n in range(10_000))])
def test_a_codebook_of_one_or_of_ten_thousand_entries_works(text, nodes, apply, attachment_of, tiny):
    assert nodes.codebook.AdaCacheCodebook.validate_inputs(table="custom", text=text) is True
    codebook = nodes.codebook.AdaCacheCodebook.execute("custom", text, STEPS, 1.0).args[0]
    model = apply(tiny(WAN).model, codebook=codebook)
    sample(tiny(WAN), model)
    assert attachment_of(model).finished[-1].report.computed < STEPS


def test_a_codebook_carries_its_steps_and_its_scaled_rates(nodes, pack):
    codebook = nodes.codebook.AdaCacheCodebook.execute("custom", "0.1:4, 1:2", 50, 0.5).args[0]
    assert (codebook.entries, codebook.steps) == (((0.1, 2), (1.0, 1)), 50)
    published = nodes.codebook.AdaCacheCodebook.execute("slow, 30 steps", "", 0, 1.0).args[0]
    assert published == pack.adacache_core.SLOW_30


def moreg(nodes, strides="1", window="as published", start=0.1, end=0.9):
    return nodes.moreg.AdaCacheMoReg.execute(1.5, window, start, end, strides, 0.4, 4.0, 2.0, 5.0, "paper").args[0]


def test_moreg_does_nothing_with_auto_and_the_report_says_so(apply, attachment_of, tiny, pack):
    note = "MoReg does nothing with auto and quality; it belongs to the tables of the paper"
    for moreg, notes in ((None, []), (pack.adacache_core.MotionConfig(), [note])):
        model = apply(tiny(WAN).model, "auto", moreg=moreg)
        sample(tiny(WAN), model)
        report = attachment_of(model).finished[-1].report
        assert [each for each in report.notes if "MoReg" in each] == notes
        assert report.moreg is None


def test_the_moreg_node_makes_its_settings(nodes, pack):
    made = pack.adacache_core.MotionConfig(
        strength=1.5, window=(0.1, 0.9), strides=(1, 2), pivot=0.4, power=4.0, divisor=2.0, gradient=5.0, form="paper"
    )
    assert moreg(nodes, strides="1, 2", window="custom") == made
    assert moreg(nodes).window is None


@pytest.mark.parametrize("strides", ["", "0", "-1", "1.5", "one", "1,,2"])
def test_strides_that_are_no_frames_are_named(strides, nodes, pack):
    message = nodes.moreg.AdaCacheMoReg.validate_inputs(window="as published", strides=strides)
    assert "strides" in message
    assert "1" in message
    with pytest.raises(pack.adacache_core.AdaCacheError, match="strides"):
        moreg(nodes, strides=strides)


def test_a_moreg_window_that_ends_before_it_starts_is_said(nodes):
    check = nodes.moreg.AdaCacheMoReg.validate_inputs
    assert "window" in check(window="custom", start_percent=0.9, end_percent=0.1, strides="1")
    assert check(window="as published", start_percent=0.9, end_percent=0.1, strides="1") is True
    assert "always" in check(window="always", strides="1")


def inspect(nodes, model, samples, *others):
    """What the inspector hands on, by name."""
    latent = {"samples": samples}
    out = nodes.inspector.AdaCacheInspector.execute(model, latent, *others)
    names = [output.display_name for output in nodes.inspector.AdaCacheInspector.define_schema().outputs]
    found = dict(zip(names, out.args, strict=True))
    assert found["latent"] is latent
    assert found["image"].ndim == 4
    assert found["image"].shape[-1] == 3
    assert found["image"].std() > 0
    return found | {"json": json.loads(found["report"])}


def test_the_inspector_shows_what_the_run_did(nodes, apply, tiny, pack):
    wan = tiny(WAN)
    model = apply(wan.model, codebook=pack.adacache_core.Codebook(((1.0, 3),), STEPS))
    found = inspect(nodes, model, sample(wan, model))
    assert (found["computed"], found["total"]) == (5, STEPS)
    assert found["speedup"] == found["json"]["measured_speedup"] > 0
    assert [item["state"][0] for item in found["json"]["evaluations"]] == list("ccrrcrrcc")
    assert found["schedule"].computed == (True, True, False, False, True, False, False, True, True)
    assert found["json"]["notes"] == []
    assert found["json"]["cache_bytes_max"] > 0
    assert (found["json"]["model"], found["json"]["family"]) == ("WanModel", "Wan")


@pytest.fixture
def noted(nodes):
    """`noted(metadata, model, samples)` -> the files' metadata after an inspector has run, as node "7"."""

    def execute(metadata, model, samples):
        hidden = SimpleNamespace(prompt=None, extra_pnginfo=metadata, unique_id="7")
        node = type("Clone", (nodes.inspector.AdaCacheInspector,), {"hidden": hidden})
        report = node.execute(model, {"samples": samples}).args[3]
        return metadata, json.loads(report)

    return execute


def test_the_inspector_adds_its_report_to_what_saved_files_tell(noted, nodes, apply, tiny):
    wan = tiny(WAN)
    model = apply(wan.model)
    video = sample(wan, model)
    metadata, report = noted({"workflow": {"id": "x"}, "adacache": {"3": "another inspector's"}}, model, video)
    assert metadata == {"workflow": {"id": "x"}, "adacache": {"3": "another inspector's", "7": report}}
    json.dumps(metadata, allow_nan=False)
    schedule, _ = schedule_node(nodes, json.dumps({"7": metadata["adacache"]["7"]}))
    assert list(schedule.computed) == [item["state"] != "reused" for item in report["evaluations"]]
    assert noted(None, model, video)[0] is None  # of a script's prompt: there is nothing to add to
    assert noted({"adacache": 3}, model, video)[0] == {"adacache": {"7": report}}


def test_without_a_run_the_inspector_adds_nothing(noted, apply, tiny):
    for model in (tiny(WAN).model, apply(tiny(WAN).model)):
        assert noted({}, model, tiny(WAN).latent)[0] == {}


def test_the_inspector_adds_up_several_runs_of_which_one_was_off(nodes, apply, tiny, pack):
    wan, rates = tiny(WAN), pack.adacache_core.Codebook(((1.0, 3),), STEPS)
    first, second = apply(wan.model, codebook=rates), apply(wan.model, "off")
    one = inspect(nodes, first, sample(wan, first))
    both = inspect(nodes, second, sample(wan, second), one["adacache_report"])
    assert (both["computed"], both["total"]) == (5 + STEPS, 2 * STEPS)
    assert [report.preset for report in both["adacache_report"]] == ["custom", "off"]


def test_a_run_is_called_as_the_inspector_says(nodes, apply, tiny):
    wan = tiny(WAN)
    model = apply(wan.model)
    found = inspect(nodes, model, sample(wan, model), (), "circle")
    assert (found["json"]["title"], found["adacache_report"][0].title) == ("circle", "circle")


def test_the_picture_tells_how_close_each_video_is_expected_to_be_and_the_report_has_it_as_numbers(
    nodes, apply, tiny, pack, monkeypatch
):
    drawn, draw = [], nodes.inspector.draw
    monkeypatch.setattr(nodes.inspector, "draw", lambda reports: drawn.append(reports) or draw(reports))
    wan, names = tiny(WAN), ("draft", "good", "faithful")
    plan = pack.adacache_core.Schedule((True, True, False) * 3)
    model, other = apply(wan.model, "auto", schedule=plan), apply(wan.model)
    one = inspect(nodes, model, sample(wan, model), (), "circle")
    inspect(nodes, other, sample(wan, other), one["adacache_report"])
    (report,) = one["adacache_report"]
    others = ", ".join(f"{name} {one['json']['would_take'][name]}" for name in names)
    said = f"xpected {report.expected}. What other settings would take: {others} of {STEPS} evaluations"
    assert [[each.notes for each in reports] for reports in drawn] == [[[f"E{said}"]], [[f"circle: e{said}"], []]]
    assert one["json"]["expected_db"] == report.expected.db
    assert one["json"]["notes"] == []


def test_the_inspector_says_that_there_is_no_adacache(nodes, tiny):
    found = inspect(nodes, tiny(WAN).model, tiny(WAN).latent)
    assert found["total"] == 0
    assert found["json"]["notes"] == ["there is no AdaCache on this MODEL; connect the output of the AdaCache node"]


NOTHING_YET = (
    "this AdaCache node has not sampled anything yet; if another AdaCache node comes after it, connect the MODEL of "
    "that one"
)


def test_the_inspector_says_that_nothing_was_sampled(nodes, apply, tiny):
    found = inspect(nodes, apply(tiny(WAN).model), tiny(WAN).latent)
    assert found["total"] == 0
    assert found["json"]["notes"] == [NOTHING_YET]


def test_the_inspector_shows_a_cancelled_run_for_what_it_is(nodes, apply, tiny):
    import comfy.model_management

    def cancel(step, *args):
        if step == 2:
            raise comfy.model_management.InterruptProcessingException

    model = apply(tiny(WAN).model)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(tiny(WAN), model, callback=cancel)
    found = inspect(nodes, model, tiny(WAN).latent)
    assert found["total"] == 3
    assert found["json"]["stopped"] == "stopped by you at step 3 of 9"
    assert found["json"]["notes"] == ["no run made this latent; this is the newest run of the AdaCache node"]
    assert (
        found["adacache_report"][0].summary().startswith("stopped by you at step 3 of 9, 2 of 3 evaluations computed")
    )
    good = inspect(nodes, model, sample(tiny(WAN), model))
    assert (good["json"]["stopped"], good["json"]["notes"]) == ("", [])


def test_the_inspector_of_an_adacache_that_another_one_replaced_says_so(nodes, apply, tiny):
    first = apply(tiny(WAN).model)
    second = apply(first)
    samples = sample(tiny(WAN), second)
    assert inspect(nodes, second, samples)["json"]["notes"] == []
    assert inspect(nodes, first, samples)["json"]["notes"] == [NOTHING_YET]


@pytest.mark.parametrize("size", [1, 63, 2**24 + 5, 2**24 + 2**22 + 2])
def test_latents_of_any_size_are_recognised(size, nodes):
    """Above 2**24 numbers, float32 does not have every index."""
    fingerprint = nodes.host.attach.fingerprint(torch.zeros(1, size).index_fill_(1, torch.tensor([size - 1]), 7.0))
    assert (fingerprint[0], fingerprint[-1]) == (size, 7.0)


def test_the_inspector_finds_the_run_that_made_a_latent_after_casts_and_later_patches(nodes, apply, tiny):
    wan = tiny(WAN)
    model = apply(wan.model)
    videos = {steps: sample(wan, model, steps=steps) for steps in (9, 10, 11)}
    later = model.clone()
    later.set_model_unet_function_wrapper(lambda function, arguments: None)
    for steps, video in videos.items():
        assert inspect(nodes, later, video.half())["json"]["sampler_steps"] == steps
        assert inspect(nodes, later, video)["json"]["notes"] == []
    assert inspect(nodes, model, videos[9] + 1)["json"]["sampler_steps"] == 11


@pytest.mark.parametrize("variant", ["LTX-2", "MiniMax-H3"])
def test_the_inspector_finds_the_run_that_made_a_latent_with_sound(variant, nodes, apply, tiny):
    """While it is sampled, picture and sound are one tensor."""
    made = tiny(variant)
    model, nested = apply(made.model, "auto"), type(made.latent)
    sizes = [part.shape for part in made.latent.unbind()]
    rows = {steps: sample(made, model, steps=steps) for steps in (9, 10)}
    for steps, row in rows.items():
        parts = row.split([size.numel() for size in sizes])
        latent = nested([part.view(size) for part, size in zip(parts, sizes, strict=True)])
        shown = inspect(nodes, model, latent)["json"]
        assert shown["sampler_steps"] == steps
        assert not any("no run made this latent" in note for note in shown["notes"])


def test_an_attachment_keeps_a_bounded_number_of_reports_and_no_tensor(apply, attachment_of, tiny):
    model = apply(tiny(WAN).model)
    for seed in range(20):
        sample(tiny(WAN), model, steps=1, seed=seed)
    finished = attachment_of(model).finished
    assert len(finished) == 16
    values = [value for run in finished for value in (*run.fingerprint, *vars(run.report).values())]
    assert not any(map(torch.is_tensor, values))


def test_auto_aims_at_the_speedup_and_says_so(apply, attachment_of, tiny, pack):
    model = apply(tiny(WAN).model, "auto", speedup=2.5)
    assert attachment_of(model).config == pack.adacache_core.auto(2.5)
    sample(tiny(WAN), model)
    report = attachment_of(model).finished[-1].report
    assert (report.preset, report.target, report.codebook, report.reuse) == ("auto 2.5x", 2.5, "", "output")


@pytest.mark.parametrize("preset", ["auto", "off"])
def test_a_model_that_is_not_known_is_fine_with_presets_that_look_at_no_block(preset, apply, attachment_of, tiny):
    stranger = tiny(WAN).model.clone()
    stranger.add_object_patch("diffusion_model.__class__", type("Stranger", (type(tiny(WAN).module),), {}))
    assert attachment_of(apply(stranger, preset)).family is None


def test_a_codebook_takes_the_place_of_auto(apply, attachment_of, tiny, pack):
    core = pack.adacache_core
    config = attachment_of(apply(tiny(WAN).model, "auto", codebook=core.SLOW_30)).config
    assert config == core.CacheConfig(core.SLOW_30)


def schedule_node(nodes, text="", *reports):
    return nodes.schedule.AdaCacheSchedule.execute(text, *reports).args


@pytest.mark.parametrize("preset", ["auto", "fast"])
def test_a_schedule_is_replayed_and_shared_as_text(preset, nodes, apply, attachment_of, tiny, pack):
    wan = tiny(WAN)
    model = apply(wan.model, codebook=pack.adacache_core.Codebook(((1.0, 3),), STEPS))
    found = inspect(nodes, model, sample(wan, model))
    schedule, text = schedule_node(nodes, "", found["adacache_report"])
    assert schedule == found["schedule"]
    assert nodes.schedule.AdaCacheSchedule.validate_inputs(text=text) is True
    shared, _ = schedule_node(nodes, text)
    again = apply(wan.model, preset, schedule=shared)
    sample(wan, again)
    report = attachment_of(again).finished[-1].report
    assert report.schedule().computed == schedule.computed
    assert report.reuse == ("output" if preset == "auto" else "blocks")
    assert 0 < report.computed < STEPS
    assert all(record.metric is None for record in report.evaluations)
    assert report.preset.startswith(f"schedule: {report.computed} of {STEPS} steps")


@pytest.mark.parametrize("preset", ["auto", "fast"])
def test_a_schedule_of_another_length_is_resampled_and_says_so(preset, nodes, apply, attachment_of, tiny, pack):
    schedule = pack.adacache_core.Schedule(tuple(step % 3 == 0 for step in range(3 * STEPS)))
    model = apply(tiny(WAN).model, preset, schedule=schedule)
    sample(tiny(WAN), model)
    report = attachment_of(model).finished[-1].report
    assert report.notes == [f"the schedule was made for {3 * STEPS} steps and is stretched to {STEPS}"]
    assert report.schedule().computed == schedule.for_steps(STEPS).computed


def test_schedules_of_several_runs_are_averaged(nodes, pack):
    core = pack.adacache_core
    lines = [core.Schedule(tuple(step % every == 0 for step in range(30))).to_json() for every in (2, 4)]
    schedule, text = schedule_node(nodes, "\n\n".join(lines))
    assert 11 <= sum(schedule.computed) <= 12
    assert core.Schedule.from_json(text) == schedule


def test_a_text_that_is_no_schedule_and_no_text_at_all_are_said(nodes, pack):
    assert "not JSON" in nodes.schedule.AdaCacheSchedule.validate_inputs(text="computed: all")
    with pytest.raises(pack.adacache_core.AdaCacheError, match="paste one as text, or connect"):
        schedule_node(nodes)
