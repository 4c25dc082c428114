"""The model that writes summaries: any encoder-decoder checkpoint of Hugging Face (T5, BART, Pegasus and their kin)."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.anatomy import Structure
from taskloom.core.artifact import Artifact, BackboneInfo
from taskloom.core.errors import ArtifactError, InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, Run, TaskModel
from taskloom.plugins.backbones.encoder import length_buckets
from taskloom.plugins.backbones.loading import find_backbone, quiet_transformers, weights_digest
from taskloom.plugins.backbones.tokenizer import TextTokenizer
from taskloom.plugins.tasks.summarization.schema import (
    CHOOSING_ONLY,
    SavedWriter,
    SummarizationInput,
    SummarizationOutput,
    SummarizationParams,
)
from taskloom.plugins.tasks.summarization.streaming import WordPieces
from taskloom.plugins.tasks.summarization.structure import writer_structures

MODEL_FOLDER = "model"
SETTINGS = ("num_beams", "min_tokens", "max_tokens", "length_penalty", "no_repeat_ngram_size")
LONGEST_SOURCE = 4096
"""Tokens read of a document where the checkpoint names no limit of its own."""
DEFAULT_MAX_TOKENS = 128
STEP_TOKENS = 4
"""Tokens of a streamed summary that are written before other requests have their turn."""
IGNORED = -100
"""The target that PyTorch's cross-entropy passes over."""


class SummaryWriter(TaskModel[SummarizationInput, SummarizationOutput, SummarizationParams]):
    """Writes a summary token by token. `import_checkpoint` takes over a checkpoint, `load` reads an artifact's.

    How a request wants its summary (beams, lengths) travels in the batch beside its text; requests that want the same are
    generated together.
    """

    streams = True

    def __init__(self, module: nn.Module, tokenizer: TextTokenizer, saved: SavedWriter) -> None:
        self.module: Any = module.eval()
        self.tokenizer = tokenizer
        self.saved = saved
        self.backbone = BackboneInfo(id=saved.backbone, digest=saved.backbone_digest)

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def import_checkpoint(
        cls,
        name: str,
        *,
        prefix: str | None = None,
        max_source_tokens: int | None = None,
        max_tokens: int | None = None,
        roots: Sequence[Path] = (),
    ) -> SummaryWriter:
        """A checkpoint by Hugging Face id or folder, with the generation settings that it brings along.

        `prefix` is put before each document (T5 wants "summarize: "); None takes what the checkpoint says.
        """
        folder = find_backbone(name, roots=roots)
        module, processor = read_checkpoint(folder, name, torch.float32)
        own = settings_of(module)
        saved = SavedWriter(
            backbone=name,
            backbone_digest=weights_digest(folder),
            prefix=own.get("prefix", "") if prefix is None else prefix,
            max_source_tokens=min(longest_source(module.config, processor), max_source_tokens or LONGEST_SOURCE),
            num_beams=int(own.get("num_beams") or 1),
            min_tokens=int(own.get("min_length") or 0),
            max_tokens=max_tokens or int(own.get("max_length") or DEFAULT_MAX_TOKENS),
            length_penalty=float(1.0 if own.get("length_penalty") is None else own["length_penalty"]),
            no_repeat_ngram_size=int(own.get("no_repeat_ngram_size") or 0),
        )
        return cls(module, TextTokenizer(processor, saved.max_source_tokens, type_vocab_size=1), saved)

    @classmethod
    def load(cls, artifact: Artifact) -> SummaryWriter:
        try:
            saved = SavedWriter.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no summary writer's: {exc}") from exc
        module, processor = read_checkpoint(artifact.folder / MODEL_FOLDER, artifact.name, "auto")
        return cls(module, TextTokenizer(processor, saved.max_source_tokens, type_vocab_size=1), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[SummarizationInput]) -> Batch:
        found = self.tokenizer.encode([self.saved.prefix + item.document for item in inputs])
        own = _settings([self.saved] * len(inputs))
        return {"input_ids": found.input_ids, "lengths": found.lengths, "truncated": found.truncated, **own}

    def prepare(self, inputs: Sequence[SummarizationInput], params: Sequence[SummarizationParams]) -> Batch:
        """Token ids end to end, and for each text its generation settings."""
        return {**self.encode(inputs), **_settings([self._plan(wanted) for wanted in params])}

    def _plan(self, params: SummarizationParams) -> SavedWriter:
        """The model's own settings with the request's over them."""
        for name in CHOOSING_ONLY:
            if getattr(params, name) is not None:
                raise InvalidInputError(
                    f"`{name}` is for models that choose sentences; this one writes: use num_beams, min_tokens, max_tokens, "
                    "max_characters, length_penalty, no_repeat_ngram_size",
                    field=f"params.{name}",
                )
        asked = {name: value for name in SETTINGS if (value := getattr(params, name)) is not None}
        longest = longest_target(self.module.config)
        if asked.get("max_tokens", 0) > longest:
            raise InvalidInputError(
                f"max_tokens is {asked['max_tokens']}; this model writes at most {longest}", field="params.max_tokens"
            )
        plan = self.saved.model_copy(update=asked)
        if plan.min_tokens > plan.max_tokens:  # one of the two was asked for: it wins over the model's own
            kept = "max_tokens" if "max_tokens" in asked else "min_tokens"
            plan = plan.model_copy(update={"min_tokens": getattr(plan, kept), "max_tokens": getattr(plan, kept)})
        return plan

    def forward(self, batch: Batch) -> Outputs:
        """`tokens`, the summaries' ids end to end without special ones, and `token_lengths` [N]. A batch with `written` is
        one text that is being streamed: its next step."""
        if "written" in batch:
            return self._step(batch)
        texts = torch.split(batch["input_ids"], batch["lengths"].tolist())
        plans = plans_of(batch)
        written: list[Tensor] = [batch["input_ids"][:0]] * len(texts)
        for plan in dict.fromkeys(plans):
            rows = [i for i, other in enumerate(plans) if other == plan]
            for bucket in length_buckets([len(texts[i]) for i in rows]):
                chosen = [rows[i] for i in bucket]
                for i, tokens in zip(chosen, self._generate([texts[i] for i in chosen], plan), strict=True):
                    written[i] = tokens
        sizes = torch.tensor([len(tokens) for tokens in written])
        return {"tokens": torch.cat(written), "token_lengths": sizes, "truncated": batch["truncated"]}

    def _generate(self, texts: Sequence[Tensor], plan: tuple[float, ...]) -> list[Tensor]:
        pad = self.module.config.pad_token_id or 0
        ids = nn.utils.rnn.pad_sequence(list(texts), True, pad)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], True, 0)
        found = self.module.generate(input_ids=ids, attention_mask=mask, generation_config=self.generation_config(plan))
        return [self._plain_ids(row) for row in found]

    def generation_config(self, plan: tuple[float, ...]) -> Any:
        """The checkpoint's own settings with a plan's over them; nothing is sampled."""
        beams, least, most, penalty, repeat = plan
        config = copy.deepcopy(self.module.generation_config)
        config.max_length = config.min_length = None
        config.max_new_tokens, config.min_new_tokens = int(most), int(least)
        config.num_beams = int(beams)
        config.length_penalty = penalty if beams > 1 else None
        config.early_stopping = bool(config.early_stopping) if beams > 1 else None
        config.no_repeat_ngram_size = int(repeat)
        config.do_sample = False
        config.temperature = config.top_k = config.top_p = None
        config.num_return_sequences = 1
        return config

    def decode(
        self, outputs: Outputs, inputs: Sequence[SummarizationInput], params: Sequence[SummarizationParams]
    ) -> list[SummarizationOutput]:
        rows = torch.split(outputs["tokens"], outputs["token_lengths"].tolist())
        found = []
        for tokens, wanted, cut in zip(rows, params, outputs["truncated"].tolist(), strict=True):
            words = WordPieces(self._text, wanted.max_characters)
            found.append(SummarizationOutput(summary=words.whole(tokens.tolist()), truncated=cut))
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.processor.decode(list(tokens), skip_special_tokens=True)
        return text

    def stream(
        self, input: SummarizationInput, params: SummarizationParams, run: Run
    ) -> Generator[str, None, SummarizationOutput]:
        """The summary as its words are finished. With more than one beam it comes in one piece: until the search ends, no
        word of it is certain."""
        batch = self.prepare([input], [params])
        words = WordPieces(self._text, params.max_characters)
        if int(batch["num_beams"][0]) > 1:
            written = run(batch)["tokens"].tolist()
        else:
            state: Mapping[str, Any] = {**batch, "written": torch.zeros(1, 0, dtype=torch.long)}
            written = []
            while not state.get("done", False) and not words.full:
                state = run(state)
                written = self._plain_ids(state["written"][0]).tolist()
                yield words.more(written)
        yield words.rest(written)
        return SummarizationOutput(summary=words.whole(written), truncated=bool(batch["truncated"][0]))

    def _step(self, state: Batch) -> Outputs:
        """Writes the next `STEP_TOKENS` tokens of one text. The first step reads the document; what it found and the keys and
        values of what is written stay in the state, on the device."""
        written = state["written"]
        known = dict(state.get("known", {}))
        if written.shape[1] == 0:
            inputs = {"input_ids": state["input_ids"].unsqueeze(0)}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            known = {"encoder_outputs": self.module.get_encoder()(**inputs), "attention_mask": inputs["attention_mask"]}
        else:
            known["decoder_input_ids"] = written  # with its mask, generate knows that the cache has most of them
            known["decoder_attention_mask"] = torch.ones_like(written)
        config = self.generation_config(plans_of(state)[0])
        last = config.max_new_tokens + 1  # and the token that every text starts with
        config.max_length, config.min_length = last, config.min_new_tokens + 1
        config.max_new_tokens = config.min_new_tokens = None
        config.return_dict_in_generate = True
        found = self.module.generate(**known, generation_config=config, stopping_criteria=[_After(STEP_TOKENS)])
        ids = found.sequences
        ended = torch.isin(ids[:, max(1, written.shape[1]) :], self._end_tokens(ids.device)).any()
        known["past_key_values"] = found.past_key_values
        return {**state, "written": ids, "known": known, "done": bool(ended) or ids.shape[1] >= last}

    def _end_tokens(self, device: torch.device) -> Tensor:
        ends = self.module.generation_config.eos_token_id
        listed = [] if ends is None else ends if isinstance(ends, list) else [ends]
        return torch.tensor(listed, dtype=torch.long, device=device)

    def _plain_ids(self, ids: Tensor) -> Tensor:
        special = torch.tensor(self.tokenizer.processor.all_special_ids, device=ids.device)
        return ids[~torch.isin(ids, special)]

    def save(self, folder: Path) -> Mapping[str, Any]:
        with quiet_transformers():
            self.module.save_pretrained(folder / MODEL_FOLDER)
            self.tokenizer.processor.save_pretrained(folder / MODEL_FOLDER)
        return self.saved.model_dump(mode="json")

    def structures(self) -> Sequence[Structure]:
        """Layers of the encoder and of the decoder."""
        return writer_structures(self.module)

    # -- training -----------------------------------------------------------------------------------------------------

    def as_target(self, output: SummarizationOutput) -> tuple[str, ...]:
        """The summary as the only reference."""
        return (output.summary,)

    def collate(self, examples: Sequence[Example[SummarizationInput]]) -> Batch:
        """Trained on the first reference of each document."""
        batch = self.encode([example.input for example in examples])
        targets = TextTokenizer(self.tokenizer.processor, self.saved.max_tokens, type_vocab_size=1).encode(
            [example.target[0] for example in examples]
        )
        return {**batch, "targets": targets.input_ids, "target_lengths": targets.lengths}

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the reference's tokens."""
        texts = torch.split(batch["input_ids"], batch["lengths"].tolist())
        targets = torch.split(batch["targets"], batch["target_lengths"].tolist())
        found: Tensor = self.module(
            input_ids=nn.utils.rnn.pad_sequence(list(texts), True, self.module.config.pad_token_id or 0),
            attention_mask=nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], True, 0),
            labels=nn.utils.rnn.pad_sequence(list(targets), True, IGNORED),
        ).loss
        return found


class _After:
    """Stops a generation after so many tokens, wherever it began."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._asked = 0

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self._asked += 1
        return torch.full((ids.shape[0],), self._asked >= self._tokens, dtype=torch.bool, device=ids.device)


def _settings(plans: Sequence[SavedWriter]) -> dict[str, Tensor]:
    """Each of `SETTINGS` as a tensor [N]."""
    return {name: torch.tensor([getattr(plan, name) for plan in plans], dtype=torch.float64) for name in SETTINGS}


def plans_of(batch: Batch) -> list[tuple[float, ...]]:
    """The settings of each text of a batch, in the order of `SETTINGS`."""
    return list(zip(*(batch[name].tolist() for name in SETTINGS), strict=True))


def read_checkpoint(folder: Path, name: str, dtype: Any) -> tuple[Any, Any]:
    """The model and its tokenizer; safetensors only, and no code from the checkpoint."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        try:
            module = AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
            processor = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            told = next(iter(str(exc).strip().splitlines()), type(exc).__name__)
            raise UnsupportedError(f"{name!r} is no encoder-decoder checkpoint that can be read: {told}") from exc
    return module, processor


def settings_of(module: Any) -> dict[str, Any]:
    """What the checkpoint says of summaries: its generation settings, and older checkpoints' `task_specific_params`."""
    own = module.generation_config.to_dict()
    own["max_length"] = own.get("max_new_tokens") or own.get("max_length")
    special = getattr(module.config, "task_specific_params", None) or {}
    return {**own, **special.get("summarization", {})}


def longest_source(config: Any, processor: Any) -> int:
    """Tokens that the encoder can read at a time."""
    names = ("max_encoder_position_embeddings", "max_position_embeddings", "n_positions")
    positions = next((int(value) for name in names if (value := getattr(config, name, None))), LONGEST_SOURCE)
    return min(positions, int(getattr(processor, "model_max_length", positions)))


def longest_target(config: Any) -> int:
    """Tokens that the decoder can write; its start takes a place."""
    names = ("max_decoder_position_embeddings", "max_position_embeddings")
    return next((int(value) - 1 for name in names if (value := getattr(config, name, None))), LONGEST_SOURCE)
