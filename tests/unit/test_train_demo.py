"""The training of the small models, on one so small that it learns in seconds; and the rows of all models."""

import json
import signal
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from itertools import pairwise

import demo_output
import pytest
import torch
from safetensors import safe_open

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from research import demo_model  # noqa: E402 (they need diffusers)
from research.small_models import (  # noqa: E402
    DISTILLED_LEVELS,
    MODELS,
    Stage,
    context_of,
    new_wan,
    original_name,
    prompt_tokens,
    read_wan,
)
from research.train_demo import Muon, Task, Training, learning_rate_factor, noise_levels, train  # noqa: E402

CPU = torch.device("cpu")
PATCH = (1, 2, 2)  # frames, height and width of a token, of Wan and of HunyuanVideo
TINY = demo_model.ARCHITECTURE | {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 48, "num_layers": 2}
SHORT = (Stage(1, 8, 0.5), Stage(2, 4, 1.0))
STEPS = 20
SUBJECT = replace(MODELS["demo"], steps=STEPS, curriculum=SHORT, make=lambda: new_wan(TINY), read=read_wan(TINY))


def tiny_training(steps=None, seed=0, subject=SUBJECT):
    training = Training(subject, steps, seed, CPU)
    training.validation_clips = 2
    return training


def interrupt(training, after):
    """As if Ctrl-C were pressed in the middle of a step."""
    advance = training.advance

    def pressed():
        if training.step == after:
            signal.raise_signal(signal.SIGINT)
        return advance()

    training.advance = pressed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete training, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    training = tiny_training()
    assert train(training, folder)
    return training, folder


def test_the_loss_falls(finished):
    training, _ = finished
    before = training.task.validation(tiny_training().model, number=4)
    after = training.task.validation(training.average.module, number=4)
    assert all(after[level] < before[level] for level in before)


@pytest.mark.parametrize("after", [0, 7, 12])
def test_interrupted_and_carried_on_it_comes_to_the_same_weights(finished, tmp_path, after):
    whole, _ = finished
    first = tiny_training()
    interrupt(first, after)
    assert not train(first, tmp_path)
    assert first.step == after + 1  # the step was done, and no other
    second = tiny_training()
    second.load(tmp_path)
    assert train(second, tmp_path)
    for ours, theirs in ((second.model, whole.model), (second.average.module, whole.average.module)):
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    assert second.log == whole.log


def test_when_the_time_is_up_it_saves_and_says_that_it_is_not_done(tmp_path):
    assert not train(tiny_training(), tmp_path, seconds=0)
    assert {path.name for path in tmp_path.iterdir()} == {"demo_wan.safetensors", "log.jsonl", "state.pt"}


def test_after_an_interruption_ctrl_c_is_as_before(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    training = tiny_training()
    interrupt(training, 0)
    train(training, tmp_path)
    assert signal.getsignal(signal.SIGINT) == before


def test_another_seed_sees_other_clips():
    """A generator looks at the lower 32 bits of its seed only, where the first seeds of ours were all alike."""
    assert tiny_training(seed=0).advance() != tiny_training(seed=1).advance()


def test_the_log_has_a_line_for_each_validation(finished):
    training, folder = finished
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert [line["step"] for line in training.log] == list(range(1, STEPS + 1))
    assert [json.loads(line) for line in lines] == training.log
    assert training.log[-1]["clips"] == 10 * 8 + 10 * 4


def test_pictures_come_first_then_short_clips_then_whole_ones():
    training = tiny_training(steps=100, subject=replace(SUBJECT, curriculum=MODELS["demo"].curriculum))
    frames = []
    for training.step in range(101):
        frames.append(training.stage.frames)
    assert frames == [1] * 18 + [4] * 12 + [8] * 71


def test_diffusers_reads_the_checkpoint_and_says_the_same_to_the_bit(finished):
    training, folder = finished
    read = SUBJECT.load(folder / SUBJECT.file.name)
    trained = new_wan(TINY)
    trained.load_state_dict({name: weight.half() for name, weight in training.average.module.state_dict().items()})
    x = torch.randn(2, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    context = context_of(prompt_tokens(), torch.zeros(2, 6, dtype=torch.long))
    told, expected = (SUBJECT.ask(model, x, torch.tensor([0.7, 0.02]), context) for model in (read, trained))
    assert told.abs().mean() > 1e-3
    assert torch.equal(told, expected)


def test_the_checkpoint_has_the_names_shapes_and_type_of_the_shipped_one(tmp_path):
    with torch.device("meta"):
        fresh = diffusers.WanTransformer3DModel.from_config(demo_model.ARCHITECTURE)
    ours = {original_name(name): list(weight.shape) for name, weight in fresh.state_dict().items()}
    with safe_open(demo_model.SHIPPED, "pt") as shipped:
        slices = {name: shipped.get_slice(name) for name in shipped.keys()}  # noqa: SIM118 (it is no dict)
        assert {name: part.get_shape() for name, part in slices.items()} == ours
        assert {part.get_dtype() for part in slices.values()} == {"F16"}
    assert demo_model.SHIPPED.stat().st_size <= 25e6


def test_noise_levels_are_spread_over_all_of_0_to_1_and_lean_to_noise():
    levels = noise_levels(4096, 3.0, torch.Generator().manual_seed(0))
    assert 0 < levels.min() < 0.02
    assert 0.98 < levels.max() <= 1
    assert 0.6 < levels.median() < 0.85


def test_the_learning_rate_rises_stays_and_falls():
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[:3] == [0.01, 0.02, 0.03]
    assert set(factors[100:550]) == {1.0}
    assert all(later <= earlier for earlier, later in pairwise(factors[550:]))
    assert factors[-1] == 0.02


@pytest.mark.parametrize("shape", [(24, 24), (48, 24), (24, 48)])
def test_muon_makes_the_steps_of_torchs(shape):
    """torch rounds to bfloat16, so the two differ by a few percent."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=1e-3),
        torch.optim.Muon([theirs], lr=1e-3, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - theirs).norm() < 0.1 * (theirs - start).norm()


def test_the_stored_output_of_the_shipped_checkpoint_is_that_of_diffusers():
    told = demo_output.by_diffusers(*demo_output.inputs())
    assert torch.allclose(told, demo_output.output(), rtol=0, atol=1e-5)


# Distillation


def rough_teacher():
    """A model whose velocity changes so fast that one step is not four."""
    torch.manual_seed(7)
    teacher = new_wan(TINY)
    for weight in teacher.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return teacher


def test_a_distilled_one_comes_nearer_to_its_teachers_steps_and_the_teacher_stays():
    subject = replace(SUBJECT, make=rough_teacher, curriculum=SHORT[1:], teacher="a tiny one")
    training = tiny_training(steps=30, subject=subject)
    before = training.task.validation(training.model, number=4)
    for _ in range(30):
        training.advance()
    after = training.task.validation(training.model, number=4)
    assert all(after[level] < before[level] for level in before)
    assert all(map(torch.equal, training.task.teacher.parameters(), rough_teacher().parameters()))


def test_who_makes_four_steps_of_the_teacher_at_once_has_no_loss():
    spans = torch.tensor(list(pairwise(DISTILLED_LEVELS["H3 turbo"])))

    def four_at_once(x, levels):
        _, ends = spans[(spans[:, 0] - levels[:, None]).abs().argmin(1)].T
        length = (ends - levels)[:, None, None, None, None]
        return x * ((1 + length / 4) ** 4 - 1) / length

    subject = replace(
        SUBJECT,
        teacher="dx/ds = x",
        make=lambda: torch.nn.Identity(),
        ask=lambda model, x, levels, context: model(x, levels) if model is four_at_once else model(x),
    )
    task = Task(subject, CPU)
    assert max(task.validation(four_at_once, number=2).values()) < 1e-9
    assert min(task.validation(torch.nn.Identity(), number=2).values()) > 1e-6


# The rows


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_whole(name):
    subject = MODELS[name]
    _, channels, frames, height, width = subject.latent
    assert subject.name == name
    assert (subject.file.stem, subject.file.suffix) == ("demo_wan" if name == "demo" else name, ".safetensors")
    assert channels == 16
    assert all(size % of == 0 for size, of in zip((frames, height, width), PATCH, strict=True))
    ends = [stage.until for stage in subject.curriculum]
    assert ends == sorted(ends)
    assert ends[-1] == 1
    assert subject.curriculum[-1].frames == frames
    assert subject.teacher is None or MODELS[subject.teacher].latent == subject.latent


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_latents_of_its_shape(name):
    subject = MODELS[name]
    try:
        clean, context = subject.throw(2, subject.latent[2], torch.Generator().manual_seed(0))
    except PackageNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")
    assert clean.shape == (2, *subject.latent[1:])
    assert context.shape == (2, 6, 4096)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "demo"])
def test_a_checkpoint_is_small_and_in_half_precision(name):
    file = MODELS[name].file
    if not file.exists():
        pytest.skip(f"{file.name} is not trained yet")
    with safe_open(file, "pt") as checkpoint:
        assert {checkpoint.get_slice(weight).get_dtype() for weight in checkpoint.keys()} == {"F16"}  # noqa: SIM118
    assert file.stat().st_size <= 10e6


def test_a_checkpoint_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of demo: .*nowhere"):
        SUBJECT.load(tmp_path / "nowhere.safetensors")
