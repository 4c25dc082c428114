"""Reading summarization data, and training on it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import Row, read_rows, stratified_split
from taskloom.plugins._shared.sentences import split_sentences
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins._shared.training import Validation, fit, pick_device, seed_everything
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.rouge import Rouge
from taskloom.plugins.tasks.summarization.schema import (
    SummarizationInput,
    SummarizationOutput,
    SummarizationParams,
    TrainConfig,
)
from taskloom.plugins.tasks.summarization.states import StateFile
from taskloom.plugins.tasks.summarization.targets import ReferenceJudge
from taskloom.plugins.tasks.summarization.writing import SummaryWriter

COLUMNS = ("id", "document", "summary", "references")
MEASURED_AT_ONCE = 16
"""Documents in a batch where no gradient is needed."""

Rows = Sequence[Example[SummarizationInput]]
TrainedSummarizer = Trained[SummarizationInput, SummarizationOutput, SummarizationParams]


def read_examples(path: Path) -> Iterator[Example[SummarizationInput]]:
    """Rows with `document` and either `summary` or, in JSONL, `references` (a list; they win over `summary`). The target is
    the tuple of references. An `id` is passed over."""
    for row in read_rows(path, columns=COLUMNS, required=("document",)):
        target = _references(row)
        try:
            value = SummarizationInput(document=row.values["document"])
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise row.error(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
        yield Example(input=value, target=target, path=row.path, line=row.line)


def _references(row: Row) -> tuple[str, ...]:
    found = row.values.get("references")
    if found is None:
        found = [row.values["summary"]] if "summary" in row.values else []
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise row.error("needs `summary` (a string) or `references` (a list of strings), none of them empty")
    return tuple(found)


def train(config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun) -> TrainedSummarizer:
    """Trains a model that chooses sentences or one that writes. Without `validation`, part of `rows` is held out; with
    neither, every row is trained on for all epochs."""
    chosen = chosen_rows(rows, config.max_documents, config.seed)
    if validation:
        kept, held = chosen, list(validation)
    else:
        kept, held = stratified_split(chosen, lambda row: row.path, config.validation_fraction, config.seed)
    held = chosen_rows(held, config.validation_documents, config.seed)
    seed_everything(config.seed)
    return (_train_chooser if config.kind == "extractive" else _train_writer)(config, kept, held, run)


def _train_chooser(config: TrainConfig, kept: Rows, held: Rows, run: TrainRun) -> TrainedSummarizer:
    model = SentenceChooser.build(
        backbone=load_backbone(config.backbone, max_length=config.max_length, roots=run.roots),
        adapter=config.adapter,
        max_length=config.max_length,
        sentences=config.sentences,
        shorten=config.shorten,
        head_size=config.head_size,
        head_layers=config.head_layers,
        dropout=config.dropout,
    )
    kept, held = ([beginning(row, model, config.training_tokens) for row in part] for part in (kept, held))
    rouge = Rouge()
    judge = ReferenceJudge(rouge.tokenizer)
    for row in kept:
        judge.targets(row, split_sentences(row.input.document))
    model.saved = model.saved.model_copy(update={"unsaid": judge.unsaid})
    model.judge, model.temperature, model.keep_weight = judge, config.temperature, config.keep_weight
    states: StateFile | None = None
    if config.adapter is None:
        documents = sorted({row.input.document for row in [*kept, *held]}, key=lambda text: (len(text), text))
        states = StateFile(StateFile.folder_for(run.work_folder.parent, documents, model), documents, model)
        device = pick_device(config.device)
        model.module.to(device).eval()
        states.fill(device, show_progress=run.show_progress)
        model.states = states
    result = _fit(model, kept, held, config=config, run=run, rouge=rouge)
    model.states = model.judge = None
    if states is not None and not config.keep_states:
        states.remove()
    return result


def _train_writer(config: TrainConfig, kept: Rows, held: Rows, run: TrainRun) -> TrainedSummarizer:
    model = SummaryWriter.import_checkpoint(config.backbone, roots=run.roots)
    kept = [first_tokens(row, model, config.training_tokens) for row in kept]
    return _fit(model, kept, held, config=config, run=run, rouge=Rouge())


def _fit(
    model: SentenceChooser | SummaryWriter, kept: Rows, held: Rows, *, config: TrainConfig, run: TrainRun, rouge: Rouge
) -> TrainedSummarizer:
    result = fit(
        model,
        kept,
        config,
        run,
        length=lambda row: estimated_tokens(row.input.document, limit=config.training_tokens),
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(_measure(model, held, rouge), "rouge") if held else None,
        is_head=lambda name: name.startswith("head."),
    )
    return Trained(model, result.history, {**result.facts, "validation_rows": len(held)})


def chosen_rows(rows: Rows, most: int, seed: int) -> list[Example[SummarizationInput]]:
    """At most so many rows of each file, chosen by the seed, in the given order; all of them if `most` is 0."""
    files: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        files[row.path].append(i)
    taken: set[int] = set()
    for name, numbers in files.items():
        take = min(most, len(numbers)) if most else len(numbers)
        taken.update(random.Random(f"{seed}:{len(numbers)}:{Path(name).name}").sample(numbers, take))
    return [rows[i] for i in sorted(taken)]


def beginning(row: Example[SummarizationInput], model: SentenceChooser, tokens: int) -> Example[SummarizationInput]:
    """The row with only those first sentences that lie in so many tokens; at least one."""
    document = row.input.document
    found = model.parts.tokenizer.windows([document])
    ends = found.offsets[found.words >= 0, 1]
    if len(ends) <= tokens:
        return row
    last = int(ends[tokens - 1])
    sentences = split_sentences(document)
    whole = [sentence.end for sentence in sentences if sentence.end <= last]
    text = document[: whole[-1]] if whole else document[sentences[0].start : sentences[0].end]
    return row.model_copy(update={"input": SummarizationInput(document=text)})


def first_tokens(row: Example[SummarizationInput], model: SummaryWriter, tokens: int) -> Example[SummarizationInput]:
    """The row with so many tokens of its document."""
    ends = [end for _, end in model.tokenizer.pieces([row.input.document])[0].offsets]
    if len(ends) <= tokens:
        return row
    return row.model_copy(update={"input": SummarizationInput(document=row.input.document[: ends[tokens - 1]])})


def _measure(model: SentenceChooser | SummaryWriter, held: Rows, rouge: Rouge) -> Callable[[], dict[str, float]]:
    """The mean of ROUGE-1, ROUGE-2 and ROUGE-L of the summaries that the model gives, on the rows held out."""

    def measure() -> dict[str, float]:
        total = 0.0
        device = next(model.module.parameters()).device
        for start in range(0, len(held), MEASURED_AT_ONCE):
            rows = held[start : start + MEASURED_AT_ONCE]
            for row, answer in zip(rows, _answers(model, rows, device), strict=True):
                total += sum(rouge.score(answer.summary, row.target)) / 3
        return {"rouge": total / len(held)}

    return measure


def _answers(model: SentenceChooser | SummaryWriter, rows: Rows, device: torch.device) -> list[SummarizationOutput]:
    inputs = [row.input for row in rows]
    with torch.inference_mode():
        batch: dict[str, Any] = {name: value.to(device) for name, value in model.encode(inputs).items()}
        if isinstance(model, SentenceChooser) and model.states is not None:
            hidden = model.states.of([item.document for item in inputs]).to(device)
            found = model.finish(hidden.float(), batch)
        else:
            found = model.forward(batch)
    return model.decode({name: value.cpu() for name, value in found.items()}, inputs, [SummarizationParams()] * len(rows))


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows."""
    content: list[Any] = [config.model_dump(mode="json")]
    content += [[[row.input.document, list(row.target)] for row in part] for part in (rows, held)]
    return sha256_hex(canonical_json(content))
