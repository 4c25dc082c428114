from __future__ import annotations

import pickle

import pytest

from taskloom.core.errors import (
    ERRORS_BY_CODE,
    DataError,
    InternalError,
    InvalidInputError,
    OverloadedError,
    TaskloomError,
    ThrottledError,
    error_from_code,
    unknown_name,
)


@pytest.mark.parametrize("cls", ERRORS_BY_CODE.values(), ids=ERRORS_BY_CODE)
def test_every_error_survives_pickling(cls: type[TaskloomError]) -> None:
    again = pickle.loads(pickle.dumps(cls("what happened")))
    assert type(again) is cls
    assert str(again) == again.message == "what happened"


def test_details_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(InvalidInputError("no text", "input.text"))).field == "input.text"
    assert pickle.loads(pickle.dumps(OverloadedError("full", 2.5))).retry_after_s == 2.5
    again = pickle.loads(pickle.dumps(DataError("bad row", "a.csv", 7)))
    assert (again.path, again.line) == ("a.csv", 7)


def test_codes_are_unique() -> None:
    def classes(root: type[TaskloomError]) -> list[type[TaskloomError]]:
        return [root, *(c for child in root.__subclasses__() for c in classes(child))]

    assert len({cls.code for cls in classes(TaskloomError)}) == len(classes(TaskloomError))


def test_an_error_comes_back_from_its_code() -> None:
    error = error_from_code("rate_limited", "slow down", 3.0)
    assert isinstance(error, ThrottledError)
    assert error.retry_after_s == 3.0


def test_a_code_from_the_future_keeps_its_name() -> None:
    error = error_from_code("quantum_flux", "what?")
    assert isinstance(error, InternalError)
    assert "quantum_flux" in str(error)


def test_an_unknown_name_says_what_exists() -> None:
    told = str(unknown_name("model", "intent-eng", ["intent-en", "topic-zh"], "See `taskloom models list`."))
    assert "'intent-eng'" in told
    assert "did you mean 'intent-en'" in told
    assert "topic-zh" in told
    assert told.endswith("See `taskloom models list`.")
