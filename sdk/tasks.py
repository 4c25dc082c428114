"""The calls of the built-in tasks, each written once: what it takes, and what comes of it. A client turns them into its methods
(`blocking` in surface.py, `awaitable` in aio.py), so that all clients take the same arguments and give the same results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, BinaryIO, Generic, ParamSpec, TypeVar, Unpack

from taskloom.core.errors import InvalidInputError
from taskloom.core.types import InferCall
from taskloom.sdk.files import file_bytes
from taskloom.sdk.requests import CallOptions, build_call, check_options, model_ref
from taskloom.sdk.results import (
    AnswerResult,
    ClassificationResult,
    NerResult,
    RecommendResult,
    SummaryResult,
    TaskResult,
    VisionResult,
)

P = ParamSpec("P")
R = TypeVar("R", bound=TaskResult)
F = TypeVar("F", bound=Callable[..., Any])

Image = bytes | bytearray | memoryview | str | PathLike[str] | BinaryIO
"""The bytes of an image file, or where they are: a path, or a file that is open for reading bytes."""


@dataclass(frozen=True, slots=True)
class Question(Generic[R]):
    """An input for a model of a built-in task, and the type of the answer to it. No I/O, and no client yet."""

    result: type[R]
    model: str
    input: Mapping[str, Any]
    params: Mapping[str, Any]
    options: CallOptions

    def call(self, timeout_s: float, *, typed_as: str) -> InferCall:
        """`typed_as` is the task if the input travels in a message of its own."""
        options: dict[str, Any] = {**self.options, "timeout_s": timeout_s}
        ref = model_ref(self.model, options.pop("version", None))
        params = {**(options.pop("params", None) or {}), **self.params}
        return build_call(ref, self.input, params=params, typed_as=typed_as, **options)


def classify(
    text: str,
    *,
    model: str,
    text_pair: str | None = None,
    labels: Sequence[str] | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    **options: Unpack[CallOptions],
) -> Question[ClassificationResult]:
    """The labels of a text, or of a pair of texts, best first.

    `top_k` keeps the best, `threshold` those of at least that probability; left out, the task's own defaults hold. A zero-shot
    model takes the candidate `labels` with the call. `options` are those of every call: see `CallOptions`.
    """
    params = {"labels": _items("labels", labels), "top_k": top_k, "threshold": threshold}
    return _question(ClassificationResult, model, {"text": text, "text_pair": text_pair}, params, options)


def ner(
    text: str,
    *,
    model: str,
    labels: Sequence[str] | None = None,
    threshold: float | None = None,
    dictionary: Mapping[str, str] | None = None,
    ignore_case: bool | None = None,
    **options: Unpack[CallOptions],
) -> Question[NerResult]:
    """The names in a text, with their places in it as code points.

    `labels` keeps entities of these kinds, `threshold` those of at least that probability. `dictionary` says of terms what they
    are, `{"Taskloom": "PRODUCT"}`: where they stand in the text, in any letter case with `ignore_case`, they are entities,
    whatever the model says. `options` are those of every call: see `CallOptions`.
    """
    params = {
        "labels": _items("labels", labels),
        "threshold": threshold,
        "dictionary": dictionary,
        "ignore_case": ignore_case,
    }
    return _question(NerResult, model, {"text": text}, params, options)


def answer(
    question: str,
    context: str,
    *,
    model: str,
    top_k: int | None = None,
    threshold: float | None = None,
    no_answer_threshold: float | None = None,
    **options: Unpack[CallOptions],
) -> Question[AnswerResult]:
    """The parts of `context` that answer `question`, best first; none if there is no answer in it.

    `top_k` keeps the best, `threshold` those of at least that probability. Nothing is answered where the probability that there
    is no answer is above `no_answer_threshold`; 1 always answers. `options` are those of every call: see `CallOptions`.
    """
    params = {"top_k": top_k, "threshold": threshold, "no_answer_threshold": no_answer_threshold}
    return _question(AnswerResult, model, {"question": question, "context": context}, params, options)


def summarize(
    document: str,
    *,
    model: str,
    max_sentences: int | None = None,
    max_characters: int | None = None,
    max_tokens: int | None = None,
    **options: Unpack[CallOptions],
) -> Question[SummaryResult]:
    """A summary of a document, no longer than the maxima say; left out, it is as long as the model was made for.

    `max_sentences` is for models that choose sentences. `options` are those of every call: see `CallOptions`.
    """
    params = {"max_sentences": max_sentences, "max_characters": max_characters, "max_tokens": max_tokens}
    return _question(SummaryResult, model, {"document": document}, params, options)


def recommend(
    *,
    model: str,
    user: str | int | None = None,
    history: Sequence[str | int] | None = None,
    likes: Sequence[str] | None = None,
    features: Mapping[str, str] | None = None,
    top_k: int | None = None,
    where: Mapping[str, str | Sequence[str]] | None = None,
    where_not: Mapping[str, str | Sequence[str]] | None = None,
    among: Sequence[str | int] | None = None,
    exclude: Sequence[str | int] | None = None,
    include_seen: bool | None = None,
    language: str | None = None,
    **options: Unpack[CallOptions],
) -> Question[RecommendResult]:
    """Items for a user, best first: a `user` that the model knows, or anybody of whom `history` (ids of items, oldest first),
    `likes` (in words) and `features` tell something.

    `top_k` keeps the best. `where` are attributes that items must have, `where_not` those that they must not; several values
    mean any of them. `among` are the only items to choose from; `exclude` are left out, and so are those of the history unless
    `include_seen`. Titles are in `language` where the model has them. `options` are those of every call: see `CallOptions`.
    """
    told = {
        "user": None if user is None else str(user),
        "history": _items("history", history),
        "likes": _items("likes", likes),
        "features": features,
    }
    params = {
        "top_k": top_k,
        "where": where,
        "where_not": where_not,
        "among": _items("among", among),
        "exclude": _items("exclude", exclude),
        "include_seen": include_seen,
        "language": language,
    }
    return _question(RecommendResult, model, told, params, options)


def classify_image(
    image: Image,
    *,
    model: str,
    top_k: int | None = None,
    threshold: float | None = None,
    **options: Unpack[CallOptions],
) -> Question[VisionResult]:
    """The labels of an image, best first. `image` is the bytes of a JPEG, PNG or WebP file, its path, or the open file.

    `top_k` keeps the best, `threshold` those of at least that probability. `options` are those of every call: see
    `CallOptions`.
    """
    return _question(VisionResult, model, {"image": _image_bytes(image)}, {"top_k": top_k, "threshold": threshold}, options)


def as_method(call: F, ask: Callable[..., Any], known: int = 0) -> F:
    """`call`, a method that asks what `ask` says, with its name, its documentation and its signature, less the first `known`
    arguments."""
    own = inspect.signature(ask)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    call.__name__ = call.__qualname__ = ask.__name__
    call.__doc__ = ask.__doc__
    call.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[this, *list(own.parameters.values())[known:]], return_annotation=inspect.Signature.empty
    )
    return call


def _question(
    result: type[R], model: str, input: Mapping[str, Any], params: Mapping[str, Any], options: CallOptions
) -> Question[R]:
    """Leaves out what was not given, so that the task's own defaults hold."""
    check_options(options, CallOptions)
    return Question(result, model, _given(input), _given(params), options)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _items(name: str, values: Sequence[str | int] | None) -> list[str] | None:
    """Texts as JSON data; numbers are taken for ids."""
    if values is None:
        return None
    if isinstance(values, str):
        raise InvalidInputError(f"{name} is one string; it takes a list of them: [{values[:40]!r}]", field=name)
    return [str(value) for value in values]


def _image_bytes(image: Image) -> bytes | bytearray | memoryview:
    if isinstance(image, bytes | bytearray | memoryview):
        return image
    if isinstance(image, str | PathLike):
        return file_bytes(image, field="image")
    content: object = image.read() if hasattr(image, "read") else None
    if not isinstance(content, bytes):
        kind = type(image).__name__ if content is None else "file of text; open it with mode 'rb'"
        raise InvalidInputError(f"image is a {kind}; it must be bytes, a path, or a file open for reading bytes", field="image")
    return content
