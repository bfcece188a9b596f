"""Samples the demo model beside another pack's node, in a process of its own: packs change the host they are in.

    python beside_a_pack.py COMFYUI PACK node NODE INPUTS
    python beside_a_pack.py COMFYUI PACK samplers NAMES STEPS
    python beside_a_pack.py COMFYUI PACK trials

COMFYUI and PACK are folders; INPUTS is JSON: what the node gets besides the model and its defaults; NAMES and STEPS are
JSON lists. Prints one line of JSON: for each way to combine the node with AdaCache, whether the video is that of the
other pack alone, and what the report says; or the speed-up counted with preset auto at 2x, of each sampler and number
of steps; or what came of each of the pack's trials.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pack_trials

ROOT = Path(__file__).absolute().parents[2]
SCRATCH = TemporaryDirectory()  # for what the host and the packs write
STEPS, CFG, PROMPT, SEED = 20, 4.0, "triangle one green fast down light", 203


def load(name: str, folder: Path):
    """A custom node's package, as the host loads it: by path."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(host: Path, folder: Path):
    """Our pack, theirs, and `research.demo_model`, in a host that is not a server."""
    sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention", "--disable-xformers"]
    sys.argv += ["--output-directory", SCRATCH.name, "--user-directory", SCRATCH.name]
    sys.path.insert(0, str(host))
    os.chdir(host)
    import comfy.options

    comfy.options.enable_args_parsing()
    import server

    import nodes

    server.PromptServer(asyncio.new_event_loop())  # some add routes to it when they are loaded
    asyncio.run(nodes.init_builtin_extra_nodes())  # which some build upon
    ours = load("adacache_pack", ROOT)
    sys.modules["adacache_core"] = ours.adacache_core  # so the other folders use this pack
    for name in ("tools", "research"):
        load(name, ROOT / name)
    try:
        theirs = load(str(host / "custom_nodes" / folder.name), folder)
    except ImportError as error:
        print("\n" + json.dumps({"cannot be loaded": str(error).split(" (")[0]}))  # without the path to the host
        sys.exit()
    return ours, theirs, importlib.import_module("research.demo_model")


def demo(demo_model):
    """The host's MODEL of the shipped checkpoint."""
    import torch
    from comfy.sd import load_diffusion_model

    return load_diffusion_model(str(demo_model.SHIPPED), model_options={"dtype": torch.float32})


def sample_demo(demo_model, model, steps: int, sampler: str):
    import comfy.sample
    import torch

    positive, negative = ([[text[None], {}]] for text in demo_model.guided_context(PROMPT, CFG))
    noise = demo_model.noise_of(SEED)[:, :, :4, :8, :8]  # a small part of a video says as much, sooner
    with torch.inference_mode():
        latent = torch.zeros_like(noise)
        return comfy.sample.sample(
            model, noise, steps, CFG, sampler, "simple", positive, negative, latent, seed=SEED, disable_pbar=True
        )


def samplers(host: Path, folder: Path, names: list[str], steps: list[int]) -> dict:
    ours, _, demo_model = start(host, folder)
    attach, found = ours.nodes.host.attach, {}
    for name in names:
        for count in steps:
            model = attach.attach(demo(demo_model), ours.adacache_core.auto(2.0), "auto 2x")
            sample_demo(demo_model, model, count, name)
            found[f"{name}, {count} steps"] = attach.attachment_of(model).finished[-1].report.counted_speedup
    return found


def node(host: Path, folder: Path, name: str, inputs: dict) -> dict:
    ours, pack, demo_model = start(host, folder)
    import torch
    from comfy.patcher_extension import WrappersMP

    theirs = pack.NODE_CLASS_MAPPINGS[name]
    attach, core = ours.nodes.host.attach, ours.adacache_core
    settings = {
        "auto": core.Target(2.0),
        "watch": core.Watch(),
        "off": core.Off(),
    }

    def with_theirs(model):
        if hasattr(theirs, "execute"):
            return theirs.execute(model=model, **inputs).args[0]
        required = theirs.INPUT_TYPES()["required"]
        defaults = {name: _default(kind) for name, kind in required.items() if name != "model"}
        return getattr(theirs(), theirs.FUNCTION)(model, **{**defaults, **inputs})[0]

    def with_ours(model, policy):
        patched = attach.attach(model, core.CacheConfig(policy), "test")
        return patched, attach.attachment_of(patched)

    def sample(model):
        """The latent, and how many blocks ran in each evaluation."""
        ran, evaluation = Counter(), [-1]

        def begin(executor, *args, **kwargs):
            evaluation[0] += 1
            return executor(*args, **kwargs)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "witness", begin)
        blocks = model.model.diffusion_model.blocks
        hooks = [
            block.register_forward_pre_hook(lambda *_: ran.update([evaluation[0]]))
            for block in blocks._modules.values()
        ]
        try:
            latent = sample_demo(demo_model, model, STEPS, "euler")
        finally:
            for hook in hooks:
                hook.remove()
        return latent, [bool(ran[index]) for index in range(evaluation[0] + 1)]

    def fresh():
        return demo(demo_model)

    def compared(alone, both, attachment):
        (expected, _), (latent, ran) = alone, sample(both)
        report = attachment.finished[-1].report
        return {
            "same": torch.equal(latent, expected),
            "row is true": [record.state in ("computed", "partly") for record in report.evaluations] == ran,
            "ran": sum(ran),
            "skipped": any(record.state == "reused" for record in report.evaluations),
            "notes": report.notes,
        }

    alone = sample(with_theirs(fresh()))
    found = {"ran alone": sum(alone[1]), "evaluations": len(alone[1])}
    for name in settings:
        both, attachment = with_ours(with_theirs(fresh()), settings[name])
        found[f"theirs first, {name}"] = compared(alone, both, attachment)
    patched, attachment = with_ours(fresh(), settings["auto"])
    found["ours first, auto"] = compared(alone, with_theirs(patched), attachment)

    model = fresh()  # and now their node is removed: what they have left on the model is found, or there is nothing
    sample(with_theirs(model))
    left = sample(model)
    both, attachment = with_ours(model, settings["auto"])
    found["left"] = compared(left, both, attachment) | {"is plain": torch.equal(left[0], sample(fresh())[0])}
    return found


def _default(kind: tuple):
    """Of a V1 input: its default, or the first of its choices."""
    options = kind[1] if len(kind) > 1 else {}
    return options.get("default", kind[0][0] if isinstance(kind[0], list) else None)


if __name__ == "__main__":
    host, folder, kind, *given = sys.argv[1:]
    if kind == "trials":
        answer = pack_trials.TRIALS[Path(folder).name](pack_trials.Beside(*start(Path(host), Path(folder))))
    elif kind == "samplers":
        answer = samplers(Path(host), Path(folder), *map(json.loads, given))
    else:
        answer = node(Path(host), Path(folder), given[0], json.loads(given[1]))
    print("\n" + json.dumps(answer))
