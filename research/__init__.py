"""Measurements and training: the benchmark, small models, their clips, quality of videos, VBench.

The pack imports none of it.
"""
