"""The tables of docs/choosing.md and docs/choosing.zh-CN.md, and the answers of `taskloom advise` on them, from the table that
`benchmarks/selection.py` writes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from taskloom.core.selection import CallTimes, MachineFacts, MeasuredModel, MeasuredTable
from taskloom.sdk.cli.main import root

BEGIN, END = "<!-- {name}: python benchmarks/selection.py --docs -->", "<!-- end of {name} -->"
MB, MS = 1e6, 1e-3


@dataclass(frozen=True)
class Words:
    """What the tables say in one language."""

    page: str
    worth: Sequence[str]
    takes: Sequence[str]
    from_scratch: str
    in_the_box: str
    train: str
    rows: str
    machine: str
    not_measured: str
    join: str
    tiers: Mapping[str, str]


ENGLISH = Words(
    page="choosing.md",
    worth=("task", "model", "languages", "backbone", "where from", "measured on", "data", "metric (95% interval)"),
    takes=(
        "model",
        "parameters, M",
        "on disk, MB (its own)",
        "memory, MB",
        "short: tokens",
        "p50 / p99 ms",
        "long: tokens",
        "p50 / p99 ms",
        "a second, 8 at a time",
    ),
    from_scratch="none: {network}",
    in_the_box="in the box",
    train="[train it](../{recipe})",
    rows="{data}, {rows} rows",
    machine="**{precision}**: {processor}{instructions}, {threads} thread, {days}. Other work ran beside it (load {load}).",
    not_measured="not measured",
    join=", ",
    tiers={"open": "open", "unclear": "said to be free", "research": "research only"},
)
CHINESE = Words(
    page="choosing.zh-CN.md",
    worth=("任务", "模型", "语言", "骨干网络", "来源", "评测数据", "数据许可", "指标（95% 区间）"),
    takes=(
        "模型",
        "参数量（百万）",
        "磁盘 MB（自身）",
        "内存 MB",
        "短请求 token 数",
        "p50 / p99 毫秒",
        "长请求 token 数",
        "p50 / p99 毫秒",
        "每秒条数（每批 8 条）",
    ),
    from_scratch="无，从零训练：{network}",
    in_the_box="内置",
    train="[自行训练](../{recipe})",
    rows="{data}，{rows} 条",
    machine="**{precision}**：{processor}{instructions}，{threads} 个线程，{days}。测量时机器上还有其他任务（负载 {load}）。",
    not_measured="未测",
    join="、",
    tiers={"open": "开放", "unclear": "据称开放", "research": "仅限研究"},
)


CONSOLE = re.compile(r"^```console\n\$ (taskloom advise[^\n]*)\n.*?^```$", re.S | re.M)


def write_docs(table: MeasuredTable, folder: Path) -> None:
    """Puts the tables between their marks, and the answers below their commands."""
    for words in (ENGLISH, CHINESE):
        page = folder / words.page
        text = with_answers(with_tables(page.read_text(encoding="utf-8"), table, words))
        page.write_text(text, encoding="utf-8")


def with_answers(text: str) -> str:
    """The page with what the commands of its `console` blocks say now, as on a processor with bf16 instructions."""
    with mock.patch("taskloom.sdk.cli.doctor.has_bf16", return_value=True):
        return CONSOLE.sub(lambda block: f"```console\n$ {block[1]}\n{_answer(block[1])}```", text)


def _answer(command: str) -> str:
    done = CliRunner().invoke(root, shlex.split(command)[1:], prog_name="taskloom", catch_exceptions=False)
    if done.exit_code:
        raise ValueError(f"{command!r} ended with status {done.exit_code}: {done.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip("\n").splitlines())


def with_tables(text: str, table: MeasuredTable, words: Words) -> str:
    """The page with the tables as they are now; raises `ValueError` for one that has no marks for them."""
    for name, lines in (("worth", worth(table, words)), ("takes", takes(table, words))):
        begin, end = BEGIN.format(name=name), END.format(name=name)
        if begin not in text or end not in text:
            raise ValueError(f"{words.page} has no {begin!r} with {end!r} behind it")
        inside = "\n".join(lines)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{inside}\n{end}{rest.partition(end)[2]}"
    return text


def worth(table: MeasuredTable, words: Words) -> Iterator[str]:
    """What the models are worth, a row each."""
    yield from _header(words.worth)
    for model in table.models:
        quality = model.quality
        interval = f" ({quality.low:.3f}–{quality.high:.3f})" if quality.low is not None and quality.high is not None else ""
        yield _row(
            model.task,
            f"`{model.name}`",
            words.join.join(model.languages),
            model.backbone or words.from_scratch.format(network=model.network),
            words.in_the_box if model.bundled else words.train.format(recipe=model.recipe),
            words.rows.format(data=quality.data, rows=quality.rows),
            words.tiers[quality.tier],
            f"{quality.metric} {quality.value:.3f}{interval}",
        )


def takes(table: MeasuredTable, words: Words) -> Iterator[str]:
    """What the models take, a table for each machine."""
    for place, (name, facts) in enumerate(table.machines.items()):
        if place:
            yield ""
        yield _machine(table, name, facts, words)
        yield ""
        yield from _header(words.takes)
        for model in table.models:
            yield _row(*_taken(model, name, words))


def _taken(model: MeasuredModel, machine: str, words: Words) -> Iterator[str]:
    yield f"`{model.name}`"
    yield f"{model.parameters / 1e6:.1f}"
    own = model.size_bytes / MB
    yield f"{model.whole_bytes / MB:.1f} ({own:.2f})" if own < 0.1 else f"{model.whole_bytes / MB:.1f} ({own:.1f})"
    speed = model.speeds.get(machine)
    if speed is None:
        yield from (words.not_measured, *[""] * (len(words.takes) - 4))
        return
    yield f"{speed.peak_rss_bytes / MB:.0f}"
    for calls in (speed.short, speed.long):
        yield f"{calls.tokens:.0f}"
        yield _times(calls)
    yield f"{speed.items_per_s:.0f}"


def _times(calls: CallTimes) -> str:
    return f"{calls.p50_s / MS:.1f} / {calls.p99_s / MS:.1f}"


def _machine(table: MeasuredTable, name: str, facts: MachineFacts, words: Words) -> str:
    low, high = table.loads(name)
    return words.machine.format(
        precision=facts.precision,
        processor=facts.processor,
        instructions="".join(f" ({one})" for one in facts.instructions),
        threads=facts.threads,
        days=words.join.join(table.days(name)),
        load=f"{low:.1f}–{high:.1f}",
    )


def _header(names: Sequence[str]) -> Iterator[str]:
    yield _row(*names)
    yield _row(*["---"] * len(names))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
