"""Every recorded trace replays, and the program that says so notices when one does not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from parity.replay import load_cases, main

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"


@pytest.mark.parametrize("case", load_cases(GOLDEN), ids=lambda case: case.name)
def test_the_core_does_what_the_reference_did(case):
    assert case.check() > 0


class Traces:
    """A copy of one scheduler case and one model run, to be tampered with.

    Attributes:
        case, run: the two, as in their files.
    """

    layers = {"case": ("scheduler_cases.json", "cases"), "run": ("model_runs.json", "runs")}

    def __init__(self, directory: Path, case: str, run: str) -> None:
        self.directory = directory
        shutil.copytree(GOLDEN, directory, dirs_exist_ok=True)
        self._data = {}
        for layer, name in (("case", case), ("run", run)):
            file, entries = self.layers[layer]
            data = json.loads((directory / file).read_text())
            data[entries] = [entry for entry in data[entries] if entry["name"] == name]
            self._data[layer] = data
            setattr(self, layer, data[entries][0])

    def write(self, *layers: str) -> Path:
        """Writes these layers and removes the others."""
        for layer, (file, _) in self.layers.items():
            (self.directory / file).unlink()
            if layer in layers:
                (self.directory / file).write_text(json.dumps(self._data[layer]))
        return self.directory


@pytest.fixture
def traces(tmp_path):
    return Traces(tmp_path, "slow30_moreg12_osc", "A_n30_fast_moreg")


def last_line(capsys) -> str:
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("layers", [("case",), ("run",), ("case", "run")], ids=" and ".join)
def test_a_directory_with_one_layer_or_both_passes_whatever_its_cases_are_called(traces, layers, capsys):
    traces.case["name"] = traces.run["name"] = "never seen"
    assert main(traces.write(*layers)) == 0
    assert last_line(capsys) == f"{len(layers)} passed, 0 failed"


def changed(value):
    """Another value, as near as a real mistake could come."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return value + "'"
    if isinstance(value, list):
        return [*value[:-1], value[-1] + 1]
    return value + 1 if isinstance(value, int) else value * 1.002 + 1e-5


CALL = [
    "block",
    "step",
    "probe_index",
    "prev_rate",
    "raw_diff",
    "step_diff",
    "sync_diff",
    "motion",
    "in_window",
    "moreg_base",
    "prev_moreg",
    "mograd",
    "moreg",
    "metric",
    "new_rate",
]


@pytest.mark.parametrize("key", CALL)
def test_every_number_of_a_metric_call_is_compared(traces, key, capsys):
    call = traces.case["videos"][0]["calls"][5]
    assert sorted(call) == sorted(CALL)
    call[key] = changed(call[key])
    assert main(traces.write("case")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


@pytest.mark.parametrize("key", ["computed_steps", "rate_after_step"])
def test_every_step_of_a_schedule_is_compared(traces, key, capsys):
    video = traces.case["videos"][0]
    video[key] = changed(video[key])
    assert main(traces.write("case")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


def test_a_metric_call_that_was_not_recorded_fails(traces, capsys):
    traces.case["videos"][0]["calls"].pop()
    assert main(traces.write("case")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


STEP = ("step", "timestep", "computed", "rate_after", "residual_sum", "residual_l1", "residual_l2")


@pytest.mark.parametrize("key", STEP)
def test_every_number_of_a_models_step_is_compared(traces, key, capsys):
    step = traces.run["videos"][0]["steps"][13]
    step[key] = changed(step[key])
    assert main(traces.write("run")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


def test_metric_calls_of_a_model_run_are_compared(traces, capsys):
    call = traces.run["videos"][0]["calls"][3]
    call["raw_diff"] = changed(call["raw_diff"])
    assert main(traces.write("run")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


@pytest.mark.parametrize("name", ["final_latent", "residual_step7"])
def test_every_tensor_of_a_model_run_is_compared(traces, name, capsys):
    file = traces.directory / "model_outputs.safetensors"
    tensors = load_file(file)
    tensors[f"A_n30_fast_moreg/video0/{name}"][0, 1, 2] += 1e-2
    save_file(tensors, file)
    assert main(traces.write("run")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


@pytest.mark.parametrize(
    ("layer", "file", "tensor"),
    [
        ("case", "scheduler_residuals", "slow30_moreg12_osc/video0/t2"),
        ("run", "model_outputs", "A_n30_fast_moreg/video0/final_latent"),
        ("run", "model_inputs", "promptA/noise"),
        ("run", "model_weights", "temporal_blocks.2.attn.qkv.weight"),
    ],
)
def test_a_missing_tensor_fails_its_case(traces, layer, file, tensor, capsys):
    path = traces.directory / f"{file}.safetensors"
    tensors = load_file(path)
    del tensors[tensor]
    save_file(tensors, path)
    assert main(traces.write(layer)) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


@pytest.mark.parametrize("layer", ["case", "run"])
def test_watching_a_block_that_does_not_exist_computes_every_step(traces, layer, capsys):
    """Rule 13 of golden/README.md, of which no trace is recorded."""
    entry = getattr(traces, layer)
    steps = entry["params"]["num_steps"]
    entry["params"]["cache_loc"], entry["probe_blocks"] = [99], []
    entry["videos"][0] |= {"computed_steps": list(range(1, steps + 1)), "rate_after_step": [1] * steps, "calls": []}
    if layer == "run":
        entry["videos"][0] = {**plain_run(), "calls": []}
    assert main(traces.write(layer)) == 0
    assert last_line(capsys) == "1 passed, 0 failed"


def plain_run() -> dict:
    """The video of the run that differs from the tampered one in not being cached."""
    runs = json.loads((GOLDEN / "model_runs.json").read_text())["runs"]
    return next(run for run in runs if run["name"] == "A_n30_nocache")["videos"][0]


def test_a_case_in_which_nothing_is_recorded_fails(traces, capsys):
    traces.case["videos"] = []
    assert main(traces.write("case")) == 1
    assert last_line(capsys) == "0 passed, 1 failed"


def test_a_failing_case_is_named_with_its_reason_and_the_others_go_on(traces, capsys):
    traces.case["videos"][0]["calls"][5]["raw_diff"] *= 1.01
    assert main(traces.write("case", "run")) == 1
    failed, passed, last = capsys.readouterr().out.splitlines()
    assert failed.startswith("FAILED  slow30_moreg12_osc: video 0, call 5")
    assert "raw_diff: recorded" in failed
    assert passed.startswith("passed  A_n30_fast_moreg")
    assert last == "1 passed, 1 failed"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", "nothing else is here"),
        ("scheduler_cases.json", '{"format_version": 1, "cases": []}'),
        ("scheduler_cases.json", '{"format_version": 1, "cases": ['),
        ("model_runs.json", '{"format_version": 2, "runs": [{"name": "of tomorrow"}]}'),
        ("model_runs.json", '["not ours"]'),
    ],
    ids=["empty", "no cases", "cut off", "later format", "something else"],
)
def test_a_directory_with_nothing_to_replay_is_an_error_and_not_a_success(file, text, tmp_path, capsys):
    (tmp_path / file).write_text(text)
    assert main(tmp_path) == 2
    printed = capsys.readouterr()
    assert str(tmp_path) in printed.err
    assert "passed" not in printed.out


def test_a_directory_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_program_runs_from_any_folder_without_being_told_where_the_core_is(traces, tmp_path):
    directory = traces.write("case")
    command = [sys.executable, str(HERE / "replay.py"), str(directory)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed"
