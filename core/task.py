"""The task contract: what a task plugin declares, and the one surface of the models that it makes.

A task plugin is described by a `TaskPlugin` that imports no ML library, so that a gateway can validate, price and
describe requests for it. The heavy half is the `TaskModel`, made by `TaskPlugin.load` or `TaskPlugin.train`; it is all
that trainers, optimizers, runtimes and predictors ever see of a task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, Field

from taskloom.core.errors import UnsupportedError
from taskloom.core.types import Frozen

if TYPE_CHECKING:
    from taskloom.core.anatomy import Graph, SoftTarget, Structure
    from taskloom.core.artifact import Artifact, BackboneInfo
    from taskloom.core.predictor import Predictor

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)
Par = TypeVar("Par", bound=BaseModel)
T = TypeVar("T")

Batch = Mapping[str, Any]
"""Named tensors for `forward`. Text is ragged: every sequence laid end to end, and `lengths` beside it."""

Outputs = Mapping[str, Any]
"""Named tensors from `forward`, on any device."""

Run = Callable[[Batch], Outputs]
"""A model's `forward` as its runtime executes it: in its turn at the device, in the planned precision. A value that is no
tensor goes through as it is, so what a model keeps from one step to the next (a key-value cache, say) can stay where it is."""


class MetricSpec(Frozen):
    """A metric that a task reports. `higher_is_better` is how two values are compared."""

    name: str
    description: str
    higher_is_better: bool = True


class Example(Frozen, Generic[In]):
    """One row of training or evaluation data: what goes in, what should come out (in the task's own form), and where it
    was read."""

    input: In
    target: Any
    path: str = ""
    line: int = 0


class Pairing(Frozen):
    """What it takes to compare two models on the same rows, and nothing that is kept in a report.

    `metrics` and `classes` (by label) are bootstrap replicates: number i is of the same drawn rows in every evaluation of the
    same rows, so the replicates of two models may be subtracted one by one. `rows` are the rows' own scores, in order, higher
    is better; a task that leaves rows out leaves out the same ones for every model."""

    metrics: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)
    classes: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)
    rows: tuple[float, ...] = ()


class EvaluationResult(Frozen):
    """What an evaluation found. `metrics` has every metric that the task declares, by name; `intervals` their 95%
    bootstrap intervals; `tables` small tables (header row first), of which `per_class` has the columns `label`,
    `precision`, `recall`, `f1` and `support`; `figures` are PNG files relative to the report."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = Field(default_factory=dict)
    tables: Mapping[str, tuple[tuple[str | float | int, ...], ...]] = Field(default_factory=dict)
    figures: tuple[str, ...] = ()
    examples: int = Field(ge=0)
    pairing: Pairing | None = Field(default=None, exclude=True, repr=False)


class Trunk(ABC):
    """What several loaded models run first, each on a branch of its own: an encoder with an adapter for each, say."""

    @abstractmethod
    def run(self, parts: Sequence[tuple[str, Batch]]) -> list[Any]:
        """One pass for (branch, batch) of any number of models; what each model's `finish` takes, in order."""


@dataclass(frozen=True)
class Branch:
    """Where a model stands on a trunk."""

    trunk: Trunk
    name: str


class TaskModel(ABC, Generic[In, Out, Par]):
    """A model of a task. `encode` and `decode` are CPU work; `forward` is device work: tensors in, tensors out, no Python
    values in between, so that it can be exported. All three may be called from several threads at a time, and keep nothing of a
    batch on the model.

    `encode` raises `InvalidInputError` for an input that it cannot take; `Predictor` then fails that input alone.
    `decode` gives one Output per input, in order. The same input gives the same output alone and in a batch.
    """

    module: Any = None
    """The `torch.nn.Module` whose parameters are trained, shrunk and saved; None for a model that has none."""

    backbone: BackboneInfo | None = None
    """The pretrained encoder that the weights belong to, for the manifest; None for a model without one."""

    labels: tuple[str, ...] = ()
    """What the model can answer, for the manifest; empty where the answer is not one of a list."""

    branch: Branch | None = None
    """Set if `forward(batch)` is `finish(branch.trunk.run([(branch.name, batch)])[0], batch)`: an executor may then run models
    that have the trunk in common in one pass."""

    streams: bool = False
    """Whether this model writes its answers piece by piece, by `stream`; its task must say so too."""

    splits_batches: bool = False
    """Whether a training may run a batch that takes much memory in micro-batches: the loss of a batch is, or nearly is, the
    mean of its rows' own, and no row is compared with others or normalized by them."""

    @property
    def graph(self) -> Graph | None:
        """The part of `forward` that a runtime may run by an engine of its own, as the model is now; None where there is no
        such part."""
        return None

    @abstractmethod
    def encode(self, inputs: Sequence[In]) -> Batch: ...

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs: ...

    def prepare(self, inputs: Sequence[In], params: Sequence[Par]) -> Batch:
        """The batch that requests are answered from. It is `encode` where params concern the answer alone; override it where
        they change what the device does."""
        return self.encode(inputs)

    def finish(self, hidden: Any, batch: Batch) -> Outputs:
        """The rest of `forward` behind the trunk, for models that have a `branch`."""
        raise UnsupportedError(f"{type(self).__name__} stands on no trunk: it has no `finish`")

    @abstractmethod
    def decode(self, outputs: Outputs, inputs: Sequence[In], params: Sequence[Par]) -> list[Out]: ...

    def stream(self, input: In, params: Par, run: Run) -> Generator[str, None, Out]:
        """Writes one answer: yields its text piece by piece and returns the Output, which is what `predict` gives for the same
        input and params. The pieces, laid end to end, are the text of that Output, so a piece is yielded when nothing can
        change it any more; a character that is not whole yet waits for its rest.

            def stream(self, input, params, run):
                state = run(self.prepare([input], [params]))
                while not state["done"]:
                    state = run(state)
                    yield self.settled_text(state)
                return self.output(state)

        All device work goes through `run`, a step at a time: between two steps other models have their turn. A caller who is
        gone is noticed at each `run` and each `yield`: one of them raises, and what the model holds is to be let go."""
        raise UnsupportedError(f"{type(self).__name__} answers as a whole: it has no `stream`")

    @abstractmethod
    def save(self, folder: Path) -> Mapping[str, Any]:
        """Writes weights (`*.safetensors`) and processing files into `folder`; returns the manifest's `config`."""

    def save_rest(self, folder: Path) -> Mapping[str, Any]:
        """What `save` does, but for the weights of the model's `graph`: a runtime's own files hold those. A model that is
        loaded again from it can be run by that runtime only."""
        raise UnsupportedError(f"{type(self).__name__} has no graph that could be kept apart from it")

    def can_learn(self, example: Example[In]) -> bool:
        """Whether `collate` can take it: there may be rows that show the model nothing, such as a target that it can't give."""
        return True

    def collate(self, examples: Sequence[Example[In]]) -> Batch:
        """`encode` with the targets beside: what `loss` takes."""
        raise UnsupportedError(f"{type(self).__name__} can't be trained: it has no `collate`")

    def loss(self, batch: Batch) -> Any:
        """The scalar training loss of a batch made by `collate`."""
        raise UnsupportedError(f"{type(self).__name__} can't be trained: it has no `loss`")

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """What a student of the same task imitates of the outputs, `logits` first. Rows are in the inputs' order."""
        raise UnsupportedError(f"{type(self).__name__} can't be distilled: it has no `distillation_targets`")

    def targets_in(self, batch: Batch, outputs: Outputs) -> Mapping[str, SoftTarget] | None:
        """What `distillation_targets` would be of the pieces that another model of the task, with another tokenizer or other
        windows, has made of the same inputs, in order: its `batch`, from `encode` or `collate`. `outputs` are what this model
        says of its own `encode` of them. A row of which it says nothing is NaN throughout. None, as by default, where rows are
        what they are in any model's pieces, or can't be carried over."""
        return None

    def on_backbone(self, name: str) -> TaskModel[In, Out, Par]:
        """A new model of this one's kind, with its labels and settings, on another pretrained encoder: a published one, a local
        folder or a Hugging Face id. All of it can be trained, and its head is random: seed torch first for the same again.
        Raises `UnsupportedError` for a model that can't be made anew so."""
        raise UnsupportedError(
            f"a {type(self).__name__} can't be made anew on backbone {name!r}: it does not read texts by an encoder under a "
            "head. Train a model on that backbone and name it as `student`"
        )

    def as_target(self, output: Out) -> Any:
        """An answer of this model in the form of `Example.target`: what a student learns from as if it were the row's own
        (sequence-level distillation). For models that write, whose answers have no fixed form that could be imitated."""
        raise UnsupportedError(f"{type(self).__name__} can't teach by whole answers: it has no `as_target`")

    def structures(self) -> Sequence[Structure]:
        """What can be taken out of the model, in the order of its forward pass; none if nothing can."""
        return ()

    def warm_up(self, max_cost: int) -> Iterator[Batch]:
        """Batches of the shapes worth preparing for at load, up to a batch of `max_cost`; none if shapes don't matter."""
        return iter(())


class SharedParts:
    """What models that are loaded together hold in common, such as a backbone. `wanted` are the keys of parts that more than
    one of them needs; a part that only one needs is better made for it alone.

    Used by one thread, while models are loaded."""

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self._wanted = frozenset(wanted)
        self._parts: dict[str, Any] = {}

    def wants(self, key: str) -> bool:
        return key in self._wanted

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The part with this key; made by the first that asks for it."""
        if key not in self._parts:
            self._parts[key] = make()
        found: T = self._parts[key]
        return found


@dataclass(frozen=True)
class TrainRun:
    """What a training gets from its surroundings: where to put checkpoints, and whom to tell about progress."""

    work_folder: Path
    """Checkpoints go here; a training that finds its own goes on from there."""
    resume: bool = True
    show_progress: bool = True
    on_event: Callable[[Mapping[str, Any]], None] = field(default=lambda _: None)
    start: Path | None = None
    """The work folder of a finished training of the same model, whose weights this one starts from; None: from none."""
    roots: tuple[Path, ...] = ()
    """Of the store whose models its settings may name, such as a backbone."""


@dataclass(frozen=True)
class Trained(Generic[In, Out, Par]):
    """What a training returns: the model, what it says about itself, and the history of its loss and metrics."""

    model: TaskModel[In, Out, Par]
    history: Sequence[Mapping[str, float]]
    facts: Mapping[str, Any]
    """For the manifest: rows, epochs, seconds, precision and the like. JSON data."""
    runtime: str = ""
    """The runtime that must serve it (`python` for a model without tensors); empty for any."""


class TaskPlugin(ABC, Generic[In, Out, Par]):
    """A task, as the registry knows it. Subclasses set the class variables and write the methods; neither the class body
    nor `__init__` may import an ML library."""

    name: ClassVar[str]
    description: ClassVar[str]
    Input: type[In]
    Output: type[Out]
    Params: type[Par]
    """Per request; every field has a default."""
    TrainConfig: type[BaseModel]
    """What a recipe may set; every field has a default but those that name data."""
    metrics: ClassVar[tuple[MetricSpec, ...]]
    primary_metric: ClassVar[str]
    data_formats: ClassVar[tuple[str, ...]]
    """File name endings that `read_examples` takes, such as `("jsonl", "csv", "tsv")`."""
    text_field: ClassVar[str | None] = None
    """The input field that a bare string on the command line means; None if there is none."""
    noisy_fields: ClassVar[tuple[str, ...]] = ()
    """The fields of the input that robustness is measured on (texts, lists of texts, pictures), where not every such field
    may be changed without changing what should come out; empty: `text_field`, else all of them."""
    fixed_marks: ClassVar[tuple[str, ...]] = ()
    """What has a meaning of its own in the task's texts, such as the mark of a gap, and stays where a text is changed."""
    caution: ClassVar[str] = ""
    """What users of any model of the task should beware of: it stands in model cards, under their limits."""
    streams: ClassVar[bool] = False
    """Whether there are models of the task that write their answers piece by piece (`TaskModel.streams`)."""
    makes_backbones: ClassVar[bool] = False
    """Whether what is trained for the task is an encoder that models of other tasks begin from, by its name."""

    @abstractmethod
    def cost(self, input: In, params: Par) -> int:
        """What the input costs, in the scheduler's unit (tokens for text, patches for images), estimated without a model
        and without an ML library; at least 1. The gateway calls it once a request."""

    @abstractmethod
    def read_examples(self, path: Path) -> Iterator[Example[In]]:
        """The rows of a data file; raises `DataError` with the path and line of the first bad row."""

    def rows(self, path: Path) -> Sequence[Example[In]]:
        """All rows of a data file, to be asked for by number and perhaps more than once. A list of them by default; a
        task whose files may be larger than memory gives a sequence that reads each row when it is asked for, and raises
        `DataError` for a bad one no later than here."""
        return list(self.read_examples(path))

    def held_out(self, examples: Sequence[Example[In]]) -> Sequence[Example[In]]:
        """Rows that are left out of an optimizer's training, as models are judged by them: by default as they are. A task that
        finds what to learn in the inputs themselves, as a recommender does in histories, takes it out of those that have no
        target."""
        return examples

    @abstractmethod
    def train(
        self, config: Any, train: Sequence[Example[In]], validation: Sequence[Example[In]], run: TrainRun
    ) -> Trained[In, Out, Par]:
        """Trains from `config` (a `TrainConfig`). With no `validation` rows, a stratified part of `train` is held out."""

    def starts_from(self, config: Any) -> tuple[str, ...]:
        """The names of the models whose weights a training with `config` (a `TrainConfig`) begins with: of published ones,
        folders or checkpoints. By default its setting `backbone`, if it has one that is a name."""
        name = getattr(config, "backbone", "")
        return (name,) if name and isinstance(name, str) else ()

    @abstractmethod
    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[In, Out, Par]:
        """The model of an artifact whose files have been verified, on the CPU in the precision that it was saved in. A
        backbone that `shared` wants by its digest is taken from there."""

    def marked(self, example: Example[In]) -> Sequence[tuple[int, int]] | None:
        """For a task whose answers are places in the text that robustness is measured on: where the row's target lies in it,
        as (start, end) in code points, none if nowhere. Each character of such a text keeps its place when a row is changed,
        and words at these places are not exchanged. None for any other task."""
        return None

    def answer(self, output: Out) -> Any:
        """What of an output a user would call the answer: two models agree where theirs are equal. By default all of it but
        its numbers with a decimal point, which are scores."""
        return _without_floats(output.model_dump(mode="json"))

    @abstractmethod
    def evaluate(
        self, predictor: Predictor[In, Out, Par], examples: Sequence[Example[In]], figures_folder: Path | None = None
    ) -> EvaluationResult:
        """Every metric of the task on rows that the model was not trained on."""


def _without_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_floats(item) for key, item in value.items() if not isinstance(item, float)}
    if isinstance(value, list | tuple):
        return [_without_floats(item) for item in value if not isinstance(item, float)]
    return value
