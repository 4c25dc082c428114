"""How an answer to a row is scored: the best it has against any annotator's."""

from __future__ import annotations

from taskloom.core.task import Example
from taskloom.plugins._shared.answer_scores import Score, is_chinese, without_marks
from taskloom.plugins.tasks.qa.schema import QaInput


def best_match(score: Score, given: str, example: Example[QaInput], *, v2: bool) -> float:
    """The best score of `given` against any annotator's answer. With `v2`, by the rules of SQuAD 2, by which "" is the right
    answer to a row without answers."""
    chinese = is_chinese(example.input.context)
    true = [answer.text for answer in example.target.answers]
    if v2:
        true = [text for text in true if without_marks(text)] or [""]
    return max((score(given, text, chinese=chinese, v2=v2) for text in true), default=0.0)
