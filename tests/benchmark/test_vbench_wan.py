"""The script for real weights, on a WanPipeline with random weights and on none."""

import json
import sys

import pytest
import torch
from benchmark.tiny_wan import tiny_wan
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from adacache_core import CacheConfig, Codebook
from research import vbench_wan
from research.wan_pipeline import attached, generate

STEPS, SHAPE = 12, (5, 48, 48)


@pytest.fixture(scope="module")
def pipeline():
    """Tokenizer, text encoder, transformer and video decoder, all tiny and untrained."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "a": 2, "ball": 3}, unk_token="<pad>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    config = UMT5Config(vocab_size=8, d_model=4096, d_kv=4, d_ff=8, num_layers=1, num_heads=1)
    pipeline = WanPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>"),  # noqa: S106
        text_encoder=UMT5EncoderModel(config).eval(),
        transformer=tiny_wan(),
        vae=AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def every(rate):
    return CacheConfig(Codebook(((1.0, rate),), STEPS))


def test_without_weights_it_says_so_and_exits_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vbench_wan", str(tmp_path / "none"), "prompts.txt", "out"])
    with pytest.raises(SystemExit) as stopped:
        vbench_wan.main()
    assert stopped.value.code == 2
    assert "weights (a WanPipeline" in capsys.readouterr().err


def test_at_rate_1_the_video_is_the_plain_one_and_at_rate_3_it_is_not(pipeline):
    plain, _ = generate(pipeline, "a ball", 0, vbench_wan.OFF, STEPS, SHAPE)
    same, took = generate(pipeline, "a ball", 0, every(1), STEPS, SHAPE)
    assert torch.equal(plain, same)
    assert took["computed"] == took["total"] == STEPS
    other, took = generate(pipeline, "a ball", 0, every(3), STEPS, SHAPE)
    assert not torch.equal(plain, other)
    assert took["computed"] == len({0, 1, 4, 7, 10, 11})


def test_prompt_and_negative_prompt_have_a_residual_each(pipeline):
    with attached(pipeline, every(3), STEPS) as (run, next_step):
        held = []

        def noting(*step):
            held.append(len(run.engine.blocks.cache._entries))
            return next_step(*step)

        pipeline(
            "a ball",
            num_frames=5,
            height=48,
            width=48,
            num_inference_steps=STEPS,
            callback_on_step_end=noting,
            output_type="latent",
        )
    assert held == [2] * STEPS
    assert {record.calls for record in run.report.evaluations} == {2}
    assert run.report.notes == []


def test_it_writes_a_video_and_a_row_for_every_setting(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(vbench_wan, "load", lambda weights: (pipeline, "cpu"))
    (tmp_path / "prompts.txt").write_text("a ball\n\n")
    arguments = ["weights", "prompts.txt", "out"]
    command = ["vbench_wan", *(str(tmp_path / name) for name in arguments), "--settings", "fast", "--steps", str(STEPS)]
    command += ["--shape", *map(str, SHAPE), "--figures", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", command)
    vbench_wan.main()
    rows = json.loads((tmp_path / "figures.json").read_text())["vbench"]["rows"]
    assert [row["setting"] for row in rows] == ["plain", "fast"]
    assert rows[0]["ssim"] == 1
    assert rows[1]["computed"] < rows[0]["computed"] == STEPS
    assert all(len(list((tmp_path / "out" / name).iterdir())) == 1 for name in ("plain", "fast"))
    assert "| fast |" in (tmp_path / "paper_tables.md").read_text()
