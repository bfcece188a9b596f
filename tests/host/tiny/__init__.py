"""Tiny random-weight models of every row of the table, with what exercises them.

Each comes with conditionings that make its modules between the blocks run, and its references and
keyframes lengthen, shorten or shift the token stream. Imports the host only inside functions.
"""

from . import picture, video, wan
from .kind import Kind, Tiny

KINDS: dict[str, Kind] = wan.KINDS | video.KINDS | picture.KINDS

__all__ = ["KINDS", "Kind", "Tiny"]
