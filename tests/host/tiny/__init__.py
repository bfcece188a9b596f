"""Tiny models with random weights for every row of the table.

Their conditionings make the modules between the blocks run; references and keyframes lengthen, shorten or shift the
token stream. The host is imported only inside functions.
"""

from . import picture, video, wan
from .variant import Tiny, Variant

VARIANTS: dict[str, Variant] = wan.VARIANTS | video.VARIANTS | picture.VARIANTS

__all__ = ["VARIANTS", "Tiny", "Variant"]
