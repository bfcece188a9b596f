"""PSNR and motion of small videos whose figures can be worked out by hand."""

import math

import pytest
import torch

from adacache_core.tell.frames import motion, motion_kept, psnr


def still(*values):
    """(frames, 2, 2, 3): one colour per frame."""
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None].expand(-1, 2, 2, 3)


def test_psnr_is_of_each_frame():
    assert psnr(still(0.5, 0.5), still(0.6, 0.5)).tolist() == [pytest.approx(20), math.inf]


def test_motion_is_the_mean_difference_of_neighbouring_frames():
    assert motion(still(0.0, 0.2, 0.6)) == pytest.approx(0.3)
    assert motion(still(0.5)) == 0


def test_motion_is_kept_in_part_wholly_or_infinitely():
    assert motion_kept(still(0.0, 0.2, 0.4), still(0.0, 0.1, 0.0)) == pytest.approx(0.5)
    assert motion_kept(still(0.5, 0.5), still(0.2, 0.2)) == 1
    assert motion_kept(still(0.5, 0.5), still(0.2, 0.3)) == math.inf
