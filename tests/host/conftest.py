"""The real ComfyUI, imported once, and the pack, loaded as ComfyUI loads it: by path, under an unusual name."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from host.running import PLAN, STEPS, policy_of
from host.tiny import VARIANTS, Tiny

from research import demo_model
from tools.host import PLACES, ROOT, find_host, version_of

# Arguments of the host, unless the environment gives others; and the dtype of models where a test names none.
ON_THE_CPU = "--cpu --use-pytorch-cross-attention --disable-xformers"
DTYPE = getattr(torch, os.environ.get("ADACACHE_TEST_DTYPE", "float32"))


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def host() -> Path:
    """The folder of a ComfyUI whose modules can be imported from here on.

    Without the attention flag the host's CPU path hides faults of torch.compile.
    """
    folder = find_host()
    if folder is None:
        pytest.skip(f"no ComfyUI was found (looked at {PLACES}): host tests are not run")
    sys.argv = [sys.argv[0], *os.environ.get("ADACACHE_TEST_HOST", ON_THE_CPU).split()]
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    import comfy.options

    comfy.options.enable_args_parsing()
    return folder


@pytest.fixture(scope="session")
def pack(host: Path):
    """The pack as a package. Its classes are not those of a plain `import adacache_core`."""
    return _load("odd folder_x_name", ROOT / "__init__.py")


@pytest.fixture(scope="session")
def schemas(pack):
    """Node id -> schema, for all nodes of the pack."""

    async def ask():
        return await (await pack.comfy_entrypoint()).get_node_list()

    return {schema.node_id: schema for schema in (node.define_schema() for node in asyncio.run(ask()))}


@pytest.fixture(scope="session")
def needs(host: Path):
    """`needs("Flux", "0.33.0")` skips the test on an older host."""
    version = _numbers(version_of(host))

    def check(variant: str, since: str) -> None:
        if version < _numbers(since):
            pytest.skip(f"the tiny {variant} can be made from ComfyUI {since} on")

    return check


@pytest.fixture(scope="session")
def tiny(host: Path, needs):
    """`tiny("Wan t2v")` -> the tiny model of that name, made once. Law 2 shows that tests can share it."""
    made = {}

    def build(variant: str, dtype: torch.dtype = DTYPE) -> Tiny:
        needs(variant, VARIANTS[variant].since)
        if (variant, dtype) not in made:
            try:
                made[variant, dtype] = VARIANTS[variant].build(dtype)
            except ImportError as missing:
                pytest.skip(f"this ComfyUI has no {variant}: {missing}")
        return made[variant, dtype]

    return build


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.fixture(scope="session")
def adacache(pack):
    """`adacache(model, rate=3)` -> (MODEL with AdaCache, its attachment), as the node makes it."""
    attach, core = pack.nodes.host.attach, pack.adacache_core

    wanted = ("target", "closeness", "schedule", "watch", "enabled")

    def apply(model, *, rate: int | None = None, table: tuple = ((1.0, 1),), steps: int = STEPS, **config):
        """With a constant rate, a table of (threshold, rate) made for `steps` steps, or arguments of `policy_of`; all
        other arguments are `CacheConfig`'s."""
        codebook = core.Codebook(table if rate is None else ((1.0, rate),), steps)
        policy = policy_of(core, codebook, **{name: config.pop(name) for name in wanted if name in config})
        patched = attach.attach(model, core.CacheConfig(policy, **config), "test")
        return patched, attach.attachment_of(patched)

    return apply


@pytest.fixture(scope="session")
def planned(pack, adacache):
    """`planned(model)` -> as `adacache`, with preset auto and the steps to compute given."""

    def apply(model, computed: tuple[int, ...] = PLAN, steps: int = STEPS, **config):
        schedule = pack.adacache_core.Schedule(tuple(step in computed for step in range(steps)))
        return adacache(model, target=2.0, schedule=schedule, **config)

    return apply


@pytest.fixture(scope="session")
def by_output_or_blocks(adacache, planned):
    """`by_output_or_blocks(way, model)` -> as `adacache`, skipping two of three steps: by "output" or by "blocks"."""
    return lambda way, model: planned(model) if way == "output" else adacache(model, rate=3)


@pytest.fixture(scope="session")
def demo(host):
    """The host's MODEL of the shipped checkpoint, in float32. It makes real videos."""
    from comfy.sd import load_diffusion_model

    return load_diffusion_model(str(demo_model.SHIPPED), model_options={"dtype": torch.float32})


@pytest.fixture(autouse=True)
def short_runs_are_skipped_too(request, monkeypatch):
    """Tests use few steps to be quick, so the limit for short runs is lower, except with `as_short_runs_are`."""
    if "pack" in request.fixturenames and "as_short_runs_are" not in request.fixturenames:
        monkeypatch.setattr(request.getfixturevalue("pack").adacache_core.engine, "FEW_STEPS", 8)


@pytest.fixture
def as_short_runs_are():
    """The limit below which no step of a run is skipped is the real one."""
