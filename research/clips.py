"""Draws the clips that the demo model learns, and turns them into latents and back. Knows no model.

Lengths are in latent pixels and times in latent frames: one latent pixel is 2 x 2 pixels of a clip, one
latent frame is 2 of its frames. Clips are (batch, 3, frames, height, width), RGB in [-1, 1].
"""

from __future__ import annotations

from math import pi

import torch
from einops import rearrange
from torch import Tensor

from research.demo_model import RGB_BIAS, RGB_FACTORS, WORDS

SLOTS = tuple(map(tuple, WORDS.values()))
SHAPE, COUNT, COLOUR, MOTION, DIRECTION, BACKGROUND = range(len(SLOTS))

FRAMES, SIZE = 8, 16  # size of the demo model's latents

# Each entry below belongs to the word at the same place of its slot.
COUNTS = (1, 3, 6)
RADII = (3.6, 2.7, 2.0)  # by count, +- 10 %
SPEEDS = (0.0, 0.35, 1.5)  # latent pixels per latent frame, +- 10 %
COLOURS = ((0.85, -0.75, -0.75), (-0.7, 0.6, -0.6), (-0.7, -0.5, 0.9), (0.9, 0.75, -0.7), (0.9, 0.9, 0.9))
HEADINGS = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))  # (x, y), y down
GROUNDS = (-0.8, 0.35, -0.2, -0.2)  # grey under the texture
TEXTURE = (0.35, 0.28, 0.42)  # how far stripes and checker go from it, by colour

CANDIDATES = 6  # places drawn for each shape; the one farthest from its neighbours is taken


def random_prompts(number: int, dice: torch.Generator) -> Tensor:
    """Random prompts; all words of a slot are equally likely.

    Returns:
        (number, 6): for each slot of SLOTS the index of its word.
    """
    return torch.stack([torch.randint(len(slot), (number,), generator=dice, device=dice.device) for slot in SLOTS], 1)


def prompt_of(words: Tensor) -> str:
    """One row of `random_prompts` as the demo model's prompt."""
    return " ".join(slot[word] for slot, word in zip(SLOTS, words.tolist(), strict=True))


def words_of(prompt: str) -> Tensor:
    """The inverse of `prompt_of`: (6,).

    Raises:
        ValueError: there are not six words, or a slot does not have the word.
    """
    return torch.tensor([slot.index(word) for slot, word in zip(SLOTS, prompt.split(), strict=True)])


def draw(words: Tensor, dice: torch.Generator, frames: int = FRAMES, size: int = SIZE) -> Tensor:
    """Draws clips for these prompts. What a prompt leaves open (places, sizes, phases) is random.

    Shapes are antialiased, move in straight lines and bounce off the edges; later ones cover earlier ones.

    Args:
        words: (batch, 6), see `random_prompts`.
        dice: random generator; the clips are made on its device.
        frames, size: of the latent that the clip is encoded to.

    Returns:
        (batch, 3, 2 frames, 2 size, 2 size), float32 in [-1, 1].
    """
    device = dice.device
    words = words.to(device)
    scale = size / SIZE  # shapes fill the same share of a larger picture
    times = torch.arange(2 * frames, device=device) / 2
    y, x = torch.meshgrid(*[(torch.arange(2 * size, device=device) + 0.5) / 2] * 2, indexing="ij")

    speed = scale * _of_word(SPEEDS, words[:, MOTION]) * _spread(words.shape[:1], dice)  # (batch,)
    radius = scale * _of_word(RADII, words[:, COUNT])[:, None] * _spread((len(words), max(COUNTS)), dice)
    centre = _paths(words[:, DIRECTION], radius, speed, times, size, dice)
    colour = _colours(words[:, COLOUR], dice)

    clip = _ground(words[:, BACKGROUND], speed, times, x, y, scale, dice)
    for shape in range(max(COUNTS)):
        dx, dy = (
            axis - centre[:, shape, :, place, None, None] for place, axis in enumerate((x, y))
        )  # (batch, frames, height, width)
        outside = _distance(words[:, SHAPE], dx, dy, radius[:, shape])
        cover = (0.5 - 2 * outside).clamp(0, 1)  # one pixel of soft edge
        there = _of_word(COUNTS, words[:, COUNT]) > shape
        cover = (cover * there[:, None, None, None])[:, None]
        clip = clip + cover * (colour[:, shape, :, None, None, None] - clip)
    return clip.clamp(-1, 1)


def _of_word(table: tuple, word: Tensor) -> Tensor:
    return torch.tensor(table, device=word.device)[word]


def _rand(shape: tuple[int, ...], dice: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=dice, device=dice.device)


def _spread(shape: tuple[int, ...], dice: torch.Generator) -> Tensor:
    """Factors of 1 +- 10 %."""
    return 0.9 + 0.2 * _rand(shape, dice)


def _paths(direction: Tensor, radius: Tensor, speed: Tensor, times: Tensor, size: int, dice: torch.Generator) -> Tensor:
    """Where the centres of all shapes are: (batch, shapes, frames, 2), x before y."""
    batch, shapes = radius.shape
    start = torch.zeros(batch, shapes, 2, device=radius.device)
    for shape in range(shapes):
        free = radius[:, shape, None, None]
        thrown = free + (size - 2 * free) * _rand((batch, CANDIDATES, 2), dice)
        if shape == 0:
            start[:, 0] = thrown[:, 0]
            continue
        nearest = torch.cdist(thrown, start[:, :shape]).amin(-1)  # (batch, candidates)
        start[:, shape] = thrown[torch.arange(batch, device=radius.device), nearest.argmax(1)]

    angle = 2 * pi * _rand((batch, shapes), dice)
    own = torch.stack([angle.cos(), angle.sin()], -1)
    mixed = direction == len(HEADINGS)
    common = _of_word(HEADINGS, direction.clamp(max=len(HEADINGS) - 1))[:, None]
    heading = torch.where(mixed[:, None, None], own, common)

    straight = start[:, :, None] + (heading * speed[:, None, None])[:, :, None] * times[:, None]
    # A bounce is the straight path folded at both walls.
    wall = radius[:, :, None, None]
    room = size - 2 * wall
    folded = torch.remainder(straight - wall, 2 * room)
    return wall + torch.minimum(folded, 2 * room - folded)


def _colours(colour: Tensor, dice: torch.Generator) -> Tensor:
    """Colours (batch, shapes, 3); `multi` draws one for each shape."""
    thrown = torch.randint(len(COLOURS), (len(colour), max(COUNTS)), generator=dice, device=dice.device)
    multi = colour == len(COLOURS)
    return _of_word(COLOURS, torch.where(multi[:, None], thrown, colour[:, None]))


def _ground(
    background: Tensor, speed: Tensor, times: Tensor, x: Tensor, y: Tensor, scale: float, dice: torch.Generator
) -> Tensor:
    """Backgrounds: plain grey, or slanted stripes or a checker, which drift at half the speed of the shapes."""
    batch = len(background)
    phase = 2 * pi * _rand((2, batch), dice)[..., None, None, None]
    frequency = ((0.9 + 0.35 * _rand((batch,), dice)) / scale)[:, None, None, None]
    drift = 0.5 * speed * torch.where(_rand((batch,), dice) < 0.5, 1.0, -1.0)
    moved = x + (drift[:, None] * times)[..., None, None]  # (batch, frames, height, width)
    across = torch.sin(frequency * (moved + 0.5 * y) + phase[0])
    along = torch.sin(frequency * (y - 0.5 * moved) + phase[1])

    stripes, checker = (
        (background == SLOTS[BACKGROUND].index(word))[:, None, None, None] for word in ("stripes", "checker")
    )
    texture = torch.tanh(2 * across) * stripes + torch.tanh(4 * across * along) * checker
    grey = _of_word(GROUNDS, background)[:, None, None, None, None]
    return grey + texture[:, None] * torch.tensor(TEXTURE, device=x.device)[:, None, None, None]


def _distance(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Distance of each pixel from a shape, negative inside. Squares and triangles roughly fill their circle."""
    radius = radius[:, None, None, None]
    circle = torch.hypot(dx, dy) - radius
    square = torch.maximum(dx.abs(), dy.abs()) - 0.88 * radius
    # Apex up; its sides rise 2 on 1, so their normals are (0.894, 0.447).
    triangle = torch.maximum(0.894 * dx.abs() - 0.447 * (dy + radius), dy - 0.85 * radius)
    return torch.stack([circle, square, triangle])[shape, torch.arange(len(shape), device=shape.device)]


# The latent code. A latent pixel holds 2 frames x 2 x 2 pixels x 3 colours as 16 numbers: the mean colour,
# its differences left to right, top to bottom, diagonally and from frame to frame, and how the brightness
# differs left to right from frame to frame. The other 8 differences of the 3-D Haar transform are dropped.
# Through Wan's latent-to-RGB factors the mean colour is what a latent preview shows; the differences lie in
# the 13 directions that those factors do not see.

LUMA = (0.299, 0.587, 0.114)
DETAIL_GAIN = 4.0  # differences are small; this gives them as much variance as the colours
COLOUR_COPY = 3.0  # only 3 channels show colours; a copy in the others gives all channels unit variance
MEAN_COLOUR = (-0.22, -0.24, -0.22)  # mean of the clips; the copy holds the difference from it


def encode(clip: Tensor) -> Tensor:
    """The latent of a clip, in Wan's normalised latent space, with which the model works.

    Returns:
        (batch, 16, frames / 2, height / 2, width / 2).
    """
    cells = rearrange(clip, "b c (t dt) (h dh) (w dw) -> b t h w (dt dh dw c)", dt=2, dh=2, dw=2)
    latent = cells @ ENCODE.to(clip) + OFFSET.to(clip)
    return rearrange(latent, "b t h w k -> b k t h w")


def decode(latent: Tensor) -> Tensor:
    """The clip of a latent. `encode(decode(latent))` gives the same latent, up to rounding.

    Returns:
        (batch, 3, 2 frames, 2 height, 2 width); values beyond [-1, 1] are not cut off.
    """
    cells = (rearrange(latent, "b k t h w -> b t h w k") - OFFSET.to(latent)) @ DECODE.to(latent)
    return rearrange(cells, "b t h w (dt dh dw c) -> b c (t dt) (h dh) (w dw)", dt=2, dh=2, dw=2)


def pictures(latent: Tensor) -> Tensor:
    """The clip of one latent as frames.

    Args:
        latent: (1, 16, frames, height, width).

    Returns:
        (2 frames, 2 height, 2 width, 3) in [0, 1].
    """
    return ((rearrange(decode(latent), "1 c t h w -> t h w c") + 1) / 2).clamp(0, 1)


def _code() -> tuple[Tensor, Tensor, Tensor]:
    """ENCODE (24, 16), DECODE (16, 24) and OFFSET (16,): latent = cell @ ENCODE + OFFSET."""
    # Haar patterns of +-1 over (dt, dh, dw): five for each colour and one for brightness.
    flat, rise, fall = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]]).double()
    axes = [(flat, flat, flat), (flat, flat, fall), (flat, fall, flat), (flat, fall, fall), (rise, flat, flat)]
    coloured = torch.stack([torch.einsum("t,h,w->thw", *each).flatten() for each in axes])  # (5, 8)
    turning = torch.einsum("t,h,w->thw", rise, flat, fall).flatten()[None]
    grey, luma, colours = torch.ones(1, 3).double(), torch.tensor([LUMA]).double(), torch.eye(3).double()
    synthesis = torch.cat([torch.kron(coloured, colours), torch.kron(turning, grey)])  # (16, 24)
    analysis = torch.cat([torch.kron(coloured, colours), torch.kron(turning, luma)]).T / 8  # (24, 16)

    # From these 16 numbers, mean colour first, to channels.
    factors = torch.tensor(RGB_FACTORS).double()
    seen = torch.linalg.pinv(factors)  # (3, 16)
    unseen = torch.linalg.qr(factors, mode="complete").Q[:, 3:].T  # (13, 16), signs as the solver likes
    unseen = unseen * unseen.gather(1, unseen.abs().argmax(1, keepdim=True)).sign()
    copy = torch.linalg.qr(torch.randn(13, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)).Q
    copy = COLOUR_COPY * copy.T @ unseen  # (3, 16)
    mixing = torch.cat([seen + copy, DETAIL_GAIN * unseen])
    offset = -torch.tensor(RGB_BIAS).double() @ seen - torch.tensor(MEAN_COLOUR).double() @ copy
    return (analysis @ mixing).float(), (torch.linalg.inv(mixing) @ synthesis).float(), offset.float()


ENCODE, DECODE, OFFSET = _code()
