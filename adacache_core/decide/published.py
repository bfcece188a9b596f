"""Published numbers as plain data, each with its source. Tables are (threshold, rate) pairs, see `Codebook`."""

# AdaCache-DiT/AdaCache, commit 2c6d3ca: Open-Sora 1.2, 30 steps, "fast".
FAST_30 = ((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.00, 1))

# The same source: Open-Sora 1.2, 30 steps, "slow".
SLOW_30 = ((0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (0.40, 1), (1.00, 1))

# The same source: 100 steps.
FAST_100 = ((0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.00, 3))

# MoReg's first and last step, counted from 1, both included, for 30 and for 100 steps. The same source.
MOREG_WINDOW_30 = (4, 26)
MOREG_WINDOW_100 = (10, 90)
