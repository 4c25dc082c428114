"""How many tokens a text will be, without a tokenizer."""

from __future__ import annotations

MAX_TOKENS = 512
"""What encoders of the BERT class take; longer texts are cut there, so they cost no more."""


def estimated_tokens(*texts: str, limit: int = MAX_TOKENS) -> int:
    """An estimate for word-piece tokenizers: 4 characters of Latin text a token, 2 of other alphabets, 1 of Chinese,
    Japanese, Korean and emoji; 2 more for the marks at the ends. At least 3, at most `limit`.

    >>> estimated_tokens("Where is my card?"), estimated_tokens("我的银行卡在哪里")
    (7, 10)
    """
    quarters = 0
    for text in texts:
        if len(text) >= 4 * limit:
            return limit
        if text.isascii():
            quarters += len(text)
        else:
            quarters += sum(1 if character < "\u0370" else 2 if character < "\u2e80" else 4 for character in text)
    return min(limit, max(1, -(-quarters // 4)) + 2)
