"""AdaCache beside every other training-free cache: the same model, noise and prompts; `python -m tools.benchmark`."""
