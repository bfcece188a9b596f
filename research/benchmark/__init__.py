"""Compares AdaCache with other training-free caches, on the same models, noise and prompts."""
