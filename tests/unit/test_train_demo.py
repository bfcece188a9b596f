"""The training of the demo model, on a model so small that it learns in seconds."""

import json
import signal
from itertools import pairwise

import demo_output
import pytest
import torch
from safetensors import safe_open

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from tools import demo_model  # noqa: E402 (they need diffusers)
from tools.train_demo import (  # noqa: E402
    CURRICULUM,
    Muon,
    Stage,
    Training,
    context_of,
    learning_rate_factor,
    new_model,
    noise_levels,
    original_name,
    train,
    validation_loss,
)

TINY = demo_model.ARCHITECTURE | {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 48, "num_layers": 2}
SHORT = (Stage(1, 8, 0.5), Stage(2, 4, 1.0))
STEPS = 20


def tiny_training(steps=STEPS, seed=0):
    training = Training(steps, seed, torch.device("cpu"), TINY, SHORT)
    training.validation_clips = 2
    return training


def interrupt(training, after):
    """As if Ctrl-C were pressed in the midst of a step."""
    advance = training.advance

    def pressed():
        if training.step == after:
            signal.raise_signal(signal.SIGINT)
        return advance()

    training.advance = pressed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training from its beginning to its end, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    training = tiny_training()
    assert train(training, folder)
    return training, folder


def test_the_loss_falls(finished):
    training, _ = finished
    before = validation_loss(tiny_training().model, training.tokens, number=4, frames=2)
    after = validation_loss(training.average.module, training.tokens, number=4, frames=2)
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
    training = tiny_training(steps=100)
    training.curriculum = CURRICULUM
    frames = []
    for training.step in range(101):
        frames.append(training.stage.frames)
    assert frames == [1] * 18 + [4] * 12 + [8] * 71


def test_diffusers_reads_the_checkpoint_and_says_the_same_to_the_bit(finished):
    training, folder = finished
    read = demo_model.load("cpu", folder / "demo_wan.safetensors", TINY)
    trained = new_model(TINY)
    trained.load_state_dict({name: weight.half() for name, weight in training.average.module.state_dict().items()})
    x = torch.randn(2, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    context = context_of(training.tokens, torch.zeros(2, 6, dtype=torch.long))
    told, expected = (model(x, torch.tensor([700.0, 20.0]), context, return_dict=False)[0] for model in (read, trained))
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
    levels = noise_levels(4096, torch.Generator().manual_seed(0))
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
    """Which rounds to bfloat16, so by a few percent they differ."""
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
