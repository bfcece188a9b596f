"""What a CUDA card does with AdaCache: laws, bytes held, cost at size, compilers, the demo. Measured there, kept here.

On any machine with a ComfyUI:

    nox -s gpu -- prepare                              # what a bare machine lacks, into .gpu (git ignores it)
    python -m tools.gpu run --rehearse --out FOLDER    # the same code, tiny, on the CPU: minutes

On a machine with a GPU, PyTorch and no network, to which the clone and `.gpu` were copied, from the root of the clone:

    python3 -m tools.gpu run --out FOLDER              # ends by itself within eight minutes
    python3 -m tools.gpu run --train --out FOLDER      # a demo model, trained on more clips, instead

Name `.gpu` to whatever copies the clone: git ignores it, so a copy of what git knows lacks it. Without it the ComfyUI
that is there is taken (`tools/host.py` says how it is found). FOLDER gets at most eight files, each written the moment
there is something in it, so that a run that was cut off counts as far as it came. Then, here:

    python -m tools.gpu page FOLDER                    # docs/gpu.json and docs/gpu.md
"""
