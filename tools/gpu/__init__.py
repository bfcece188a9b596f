"""Tests and measures AdaCache on a CUDA card: laws, bytes held, cost at real size, compilers, the demo.

On any machine with a ComfyUI:

    nox -s gpu -- prepare                              # gathers into .gpu what a bare machine lacks (git ignores it)
    python -m tools.gpu run --rehearse --out FOLDER    # the same code with tiny models on the CPU; takes minutes

On a machine with a GPU and PyTorch but no network, after copying the clone and `.gpu` to it, in the root of the clone:

    python3 -m tools.gpu run --out FOLDER              # ends by itself within eight minutes
    python3 -m tools.gpu run --train --out FOLDER      # instead trains a demo model on more clips

Copy `.gpu` explicitly: git ignores it, so a copy of the files that git knows lacks it. Without `.gpu`, the ComfyUI on
that machine is used (`tools/host.py` finds it). FOLDER gets at most eight files, each written as soon as there is a
result, so the results of a run that was cut off are not lost. Then, on the first machine:

    python -m tools.gpu page FOLDER                    # writes docs/gpu.json and docs/gpu.md
"""
