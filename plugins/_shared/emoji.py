"""Which characters belong to an emoji beside them (Unicode Technical Standard 51, sections 1.4.5 and 1.4.9). Imports no ML
library."""

from __future__ import annotations

ZERO_WIDTH_JOINER = "\u200d"


def modifies_emoji(character: str) -> bool:
    """Skin tones, and the tags that make a flag one of a region."""
    return "\U0001f3fb" <= character <= "\U0001f3ff" or "\U000e0020" <= character <= "\U000e007f"


def half_a_flag(character: str) -> bool:
    """A regional indicator: two of them are one flag."""
    return "\U0001f1e6" <= character <= "\U0001f1ff"
