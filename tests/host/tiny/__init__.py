"""Tiny random-weight models of every row of the table, with what exercises them.

Each comes with conditionings that make its modules between the blocks run, and its references and
keyframes lengthen, shorten or shift the token stream. Imports the host only inside functions.
"""

from . import picture, video, wan
from .variant import Tiny, Variant

VARIANTS: dict[str, Variant] = wan.VARIANTS | video.VARIANTS | picture.VARIANTS

__all__ = ["VARIANTS", "Tiny", "Variant"]
