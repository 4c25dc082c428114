"""How fast the same texts are classified padded in arrival order, padded after sorting, and packed, in one run.

    python benchmarks/packing.py [--input TEXTS.txt|.jsonl] [--texts 400] [--precisions fp32,bf16] [--tokens 2048]

Tokenization is included. The variants take turns over several rounds, and each keeps its best, so that a busy machine
disturbs all alike; the load is printed. Run it with the replica's environment (`TorchRuntime().environment`) to see what
a replica sees: glibc's defaults cost a large share of the time in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.tokenizer import TextTokenizer
from taskloom.plugins.runtimes.machine import bf16_instructions, usable_cores
from taskloom.plugins.runtimes.torch import torch_dtype

TEXT = "the of and to in a is that for it was on are as with they at be this from have or by one had not but what"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", help="lines of text, or JSON lines with `text`; repeatable")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=2048, help="budget of a packed batch")
    parser.add_argument("--batch", type=int, default=32, help="texts in a padded batch")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    texts = read_texts(args.input, args.texts) if args.input else synthetic_texts(args.texts)
    print(
        f"{len(texts)} texts, {args.threads} threads, torch {torch.__version__}, {platform.machine()} "
        f"{torch.backends.cpu.get_cpu_capability()}, bf16 instructions: {', '.join(bf16_instructions()) or 'none'}, "
        f"load {os.getloadavg()[0]:.1f}, MALLOC_MMAP_MAX_={os.environ.get('MALLOC_MMAP_MAX_', 'unset')}"
    )
    for precision in args.precisions.split(","):
        measure(precision, texts, args.tokens, args.batch, args.rounds)


def measure(precision: str, texts: list[str], tokens: int, batch: int, rounds: int) -> None:
    packed_backbone, padded_backbone = (load_backbone(dtype=torch_dtype(precision)) for _ in range(2))
    packed = TextEncoder(packed_backbone).eval()
    tokenizer = packed_backbone.tokenizer
    rows = [texts[i : i + batch] for i in range(0, len(texts), batch)]
    by_length = sorted(texts, key=len)
    sorted_rows = [by_length[i : i + batch] for i in range(0, len(texts), batch)]
    budgeted = by_budget(texts, tokenizer, tokens)

    def run_padded(batches: list[list[str]]) -> None:
        for rows in batches:
            padded_forward(padded_backbone.model, tokenizer, rows)

    def run_packed(batches: list[list[str]]) -> None:
        for rows in batches:
            found = tokenizer.encode(rows)
            packed(found.input_ids, found.token_type_ids, found.lengths)

    variants: dict[str, Callable[[], None]] = {
        f"padded, {batch} in arrival order": lambda: run_padded(rows),
        f"padded, {batch} sorted by length": lambda: run_padded(sorted_rows),
        f"packed, {batch} in arrival order": lambda: run_packed(rows),
        f"packed, {tokens} tokens in arrival order": lambda: run_packed(budgeted),
    }
    best = dict.fromkeys(variants, float("inf"))
    with torch.inference_mode():
        for name in [*variants] * (rounds + 1):  # the first round warms up, and is never the best
            start = time.perf_counter()
            variants[name]()
            best[name] = min(best[name], time.perf_counter() - start)
    base = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"{precision}  {name:36} {len(texts) / seconds:8.1f} texts/s  {base / seconds:5.2f} x")


def padded_forward(model: torch.nn.Module, tokenizer: TextTokenizer, texts: list[str]) -> None:
    found = tokenizer.encode(texts)
    rows = found.input_ids.split(found.lengths.tolist())
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = torch.arange(ids.shape[1]) < found.lengths.unsqueeze(1)
    model(input_ids=ids, attention_mask=mask.long())


def by_budget(texts: list[str], tokenizer: TextTokenizer, tokens: int) -> list[list[str]]:
    """Batches of up to `tokens` tokens, first come, first served."""
    batches: list[list[str]] = [[]]
    used = 0
    for text, length in zip(texts, tokenizer.encode(texts).lengths.tolist(), strict=True):
        if batches[-1] and used + length > tokens:
            batches.append([])
            used = 0
        batches[-1].append(text)
        used += length
    return batches


def read_texts(paths: list[Path], count: int) -> list[str]:
    found: list[str] = []
    for path in paths:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found += [json.loads(line)["text"] if path.suffix == ".jsonl" else line for line in lines][: count // len(paths)]
    random.Random(0).shuffle(found)
    return found


def synthetic_texts(count: int) -> list[str]:
    """Texts of 4 to about 150 words, most of them short."""
    draw = random.Random(0)
    return [" ".join(draw.choices(TEXT.split(), k=min(150, 4 + int(draw.expovariate(1 / 22))))) for _ in range(count)]


if __name__ == "__main__":
    main()
