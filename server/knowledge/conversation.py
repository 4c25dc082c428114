"""Questions that need the ones before them: rules that say which do, and what to search for then.

A question stands alone unless it points back (a pronoun, "that one", 它, 这个), goes on ("And ...?", "What about ...?",
那...呢) or is too short to say what it is about. Then the last question that stood alone is put before it: search and reader
get both. No model rewrites anything: what was searched for is the user's own words, and is told in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from taskloom.core.knowledge_calls import Turn
from taskloom.core.language import simplified

POINTS_BACK_EN = re.compile(
    r"\b(it|its|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|one|ones|then|former|latter|same"
    r"|(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )there(?! (is|are|was|were)\b))\b",  # "is there a warranty" points nowhere
    re.IGNORECASE,
)
GOES_ON_EN = re.compile(
    r"^\s*(and|or|but|so|then|also|what about|how about|what else|why not|why|how so|really)\b", re.IGNORECASE
)
POINTS_BACK_ZH = re.compile(
    r"(?<!其)它|她|(?<![吉其])他|其(?![他它余中实])|(?<!应)该|(?<![因彼如])此(?!外)|这|那|前者|后者|同样|上述|刚才|上面"
)
"""Not in words that point nowhere: 应该, 其他, 其它, 其中, 吉他, 因此, 此外."""
GOES_ON_ZH = re.compile(r"^\s*(那|还有|另外|然后|以及|为什么呢|怎么会|而且)|呢[??]?\s*$")
CONTENT_WORDS_EN = 1
"""Words beside question words and the like that a question needs to say what it is about."""
SHORT_ZH = 4
EMPTY_EN = re.compile(
    r"(a|about|an|are|as|at|be|by|can|could|did|do|does|for|from|had|has|have|how|i|in|is|it|long|many|may|"
    r"me|might|more|much|my|no|not|of|often|on|our|please|say|should|tell|the|to|us|was|we|were|what|when|"
    r"where|which|who|whom|whose|why|will|with|would|yes|you|your)"
)
"""English words that say nothing of a question's matter."""


def understood(question: str, turns: Sequence[Turn], language: str) -> str:
    """What to search for: the question, behind the one that it needs.

    >>> understood("And how long is it?", [Turn(question="Where is the Nile?", answer="Africa")], "en")
    'Where is the Nile? And how long is it?'
    >>> understood("那保修期呢?", [Turn(question="X200 路由器支持 WiFi 6 吗?")], "zh")
    'X200 路由器支持 WiFi 6 吗? 那保修期呢?'
    >>> understood("How long is the Danube?", [Turn(question="Where is the Nile?")], "en")
    'How long is the Danube?'
    """
    if not turns or stands_alone(question, language):
        return question
    for turn in reversed(turns):
        if stands_alone(turn.question, language):
            return f"{turn.question} {question}"
    return f"{turns[0].question} {question}"


def stands_alone(question: str, language: str) -> bool:
    if language == "zh":
        question = simplified(question)
        letters = sum(letter.isalnum() for letter in question)
        return letters > SHORT_ZH and not POINTS_BACK_ZH.search(question) and not GOES_ON_ZH.search(question)
    content = [word for word in re.findall(r"\w+", question.lower()) if not EMPTY_EN.fullmatch(word)]
    return len(content) >= CONTENT_WORDS_EN and not POINTS_BACK_EN.search(question) and not GOES_ON_EN.search(question)
