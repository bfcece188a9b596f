"""The core beside diffusers, in a sampling loop of one's own: this is also the example of how to use it."""

from itertools import pairwise

import pytest
import torch
from toys import Plain

from adacache_core import FAST_30, AdaCache, CacheConfig, Codebook, MotionConfig, Off

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

STEPS, FRAMES, HEIGHT, WIDTH = 12, 3, 8, 8
POSITIONS = (HEIGHT // 2) * (WIDTH // 2)  # patches of 1 x 2 x 2


@pytest.fixture(scope="module")
def transformer():
    """A Wan video transformer with random weights; `ran` counts the calls of its blocks."""
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=48,
        num_layers=4,
        rope_max_seq_len=32,
    ).eval()
    model.ran = 0

    def count(*_):
        model.ran += 1

    for block in model.blocks:
        block.register_forward_pre_hook(count)
    return model


@torch.no_grad()
def generate(transformer, run, dtype=torch.float32):
    """Rectified flow from noise with guidance, both prompts in one batch; returns the latents of all steps."""
    dice = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=dice).to(dtype)
    prompts = torch.randn(2, 5, 16, generator=dice).to(dtype)
    latents = []
    for step in range(STEPS):
        t = 1 - step / STEPS
        with run.evaluation(step, sigma=t), run.call(["prompt", "no prompt"], FRAMES, POSITIONS):
            velocity = transformer(torch.cat([x, x]), torch.full((2,), 1000 * t), prompts, return_dict=False)[0]
        prompt, no_prompt = velocity.chunk(2)
        x = x - (no_prompt + 3 * (prompt - no_prompt)) / STEPS
        latents.append(x)
    return latents


def attach(transformer, config):
    return AdaCache(transformer, blocks="blocks", head="norm_out", steps=STEPS, config=config)


def every(rate):
    return CacheConfig(Codebook(((1.0, rate),), STEPS), MotionConfig())


@pytest.mark.parametrize("config", [every(1), CacheConfig(Off()), CacheConfig(FAST_30, start=1.0)])
def test_off_is_the_plain_model_bit_for_bit(transformer, config):
    plain = generate(transformer, Plain())
    with attach(transformer, config) as run:
        cached = generate(transformer, run)
    assert all(map(torch.equal, cached, plain))


def test_with_a_rate_of_three_no_block_runs_on_the_steps_between(transformer):
    ran = []
    transformer.ran = 0
    with attach(transformer, every(3)) as run:
        hook = transformer.norm_out.register_forward_pre_hook(lambda *_: ran.append(transformer.ran))
        generate(transformer, run)
    hook.remove()
    per_step = [after - before for before, after in pairwise([0, *ran])]
    computed = {0, 1, 4, 7, 10, 11}
    assert per_step == [4 if step in computed else 0 for step in range(STEPS)]
    assert [record.state == "computed" for record in run.report.evaluations] == [count > 0 for count in per_step]
    assert run.report.counted_speedup == 2


def test_until_the_first_reused_step_nothing_differs_and_afterwards_little(transformer):
    plain = generate(transformer, Plain())
    with attach(transformer, every(3)) as run:
        cached = generate(transformer, run)
    assert all(map(torch.equal, cached[:2], plain[:2]))
    assert not torch.equal(cached[2], plain[2])
    assert (cached[-1] - plain[-1]).norm() < 0.1 * plain[-1].norm()


def test_motion_is_found_in_the_tokens(transformer):
    with attach(transformer, every(3)) as run:
        generate(transformer, run)
    assert run.report.notes == []
    assert any(record.motion is not None for record in run.report.evaluations)


def test_in_half_precision_the_residual_is_kept_in_half_precision(transformer):
    """diffusers hands the head of Wan a float32 copy of the stream."""
    half = diffusers.WanTransformer3DModel.from_config(transformer.config).to(torch.bfloat16).eval()
    with attach(half, every(3)) as run:
        latents = generate(half, run, torch.bfloat16)
    assert all(latent.dtype == torch.bfloat16 and latent.isfinite().all() for latent in latents)
    width = 2 * 12
    residual = FRAMES * POSITIONS * width * 2
    assert 2 * residual < run.report.cache_bytes_max <= 2 * 1.25 * residual


def test_afterwards_the_transformer_is_the_plain_one(transformer):
    names = [name for name, _ in transformer.named_modules()]
    plain = generate(transformer, Plain())
    with attach(transformer, every(3)) as run:
        generate(transformer, run)
    assert [name for name, _ in transformer.named_modules()] == names
    assert all(map(torch.equal, generate(transformer, Plain()), plain))
