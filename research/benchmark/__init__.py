"""AdaCache beside other training-free caches: same model, noise and prompts. Run by `python -m research.benchmark`."""
