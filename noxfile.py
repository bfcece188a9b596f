"""All that is run by hand or by CI, each in an environment of its own: `nox -l` lists it, README.md starts it."""

import os
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))  # nox imports this file without its folder

from tools.host import HostError, find_host

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # torch's threads must not spin where several share a core
os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # trust what this machine trusts, as pip does

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "test"]

PINNED = ["--constraint", "tools/constraints.txt"]
# comfy-cli installs hosts and reads workflows; diffusers is the way without a host.
TOOLS = ["torch", "diffusers", "kornia", "comfy-cli"]
TOOLS += ["einops", "numpy", "pillow", "safetensors", "tqdm", "uv", "websocket-client"]
# cache-dit and what else comes with diffusers is measured beside us; transformers is WanPipeline's.
BENCHMARK = [*TOOLS, "cache-dit", "matplotlib", "transformers"]
# Real clips that a small model learns. Pinned here: a ComfyUI is installed with the constraints, and pins its own.
MEDIA = ["comfyui-workflow-templates-media-assets-01==0.1.30", "comfyui-workflow-templates-media-assets-02==0.1.24"]


def install(session: nox.Session, *packages: str) -> None:
    """Says what it fetches, which the first time is gigabytes."""
    session.log("Installing into .nox: the first time this fetches PyTorch and more (5 GB), later it takes seconds.")
    session.install(*PINNED, *packages, silent=False)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: a video with and without AdaCache, in a ComfyUI or through diffusers (-- --help)."""
    install(session, *TOOLS)
    session.run("python", "-m", "tools.demo", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """All tests: ours here, those of the host in the host's own Python."""
    install_benchmark(session)
    install(session, *MEDIA, "playwright", "pytest")
    session.run("python", "-m", "tools.all_tests", *session.posargs)


@nox.session
def benchmark(session: nox.Session) -> None:
    """AdaCache beside all other caches, for docs/benchmarks.md: hours, or two minutes (-- --quick)."""
    install_benchmark(session)
    session.run("python", "-m", "research.benchmark", *session.posargs)


def install_benchmark(session: nox.Session) -> None:
    """All methods that come as packages, and what a ComfyUI requires, if there is one: its samplers make the videos."""
    try:
        host = find_host()
    except HostError as error:
        session.error(str(error))
    if host is not None:
        install(session, "--requirement", str(host / "requirements.txt"))
    install(session, *BENCHMARK)
    # For the weights that come with it. Its code is not run, nor what that would need.
    session.install(*PINNED, "--no-deps", "stlpips-pytorch")


@nox.session
def train(session: nox.Session) -> None:
    """A small model from nothing, in hours, or on from where it was stopped (-- --model NAME --out FOLDER)."""
    session.install(*PINNED, *TOOLS, *MEDIA)
    session.run("python", "-m", "research.train_demo", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """What a machine with a GPU and nothing else is given (-- prepare), and what came back (-- page FOLDER)."""
    session.install("pip")
    session.run("python", "-m", "tools.gpu", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the direction of imports."""
    session.install(*PINNED, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the core."""
    session.install(*PINNED, "mypy", "torch", "einops", "numpy", "pillow", "safetensors")
    session.run("mypy")
