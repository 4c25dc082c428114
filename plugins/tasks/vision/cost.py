"""What a picture costs the scheduler, told from its size alone. Imports no ML library."""

from __future__ import annotations

PATCH = 16
"""Pixels a side of a patch, as vision transformers cut pictures (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929)."""
MOST_PATCHES = 196
"""Of 224 x 224 pixels: models scale larger pictures down to about that."""
DECODED_AT_A_TIME = 65_536
"""Pixels whose decoding and scaling count as one more patch."""


def image_cost(width: int, height: int) -> int:
    """Patches that a model looks at, and a share for decoding.

    >>> image_cost(28, 28), image_cost(224, 224), image_cost(4000, 3000)
    (4, 196, 379)
    """
    patches = -(-width // PATCH) * -(-height // PATCH)
    return min(patches, MOST_PATCHES) + width * height // DECODED_AT_A_TIME
