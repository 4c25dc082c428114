from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console
from scripted_knowledge import MemoryKnowledge
from served_knowledge import KnowledgeHook, Served

from taskloom.core.errors import UnavailableError
from taskloom.core.hookspecs import hookimpl
from taskloom.core.knowledge import Document, Refused
from taskloom.core.knowledge_calls import AskCall, GraphCall, KnowledgeAnswer, SearchCall, Source
from taskloom.core.loader import load_registry
from taskloom.sdk.cli import kb, kb_render
from taskloom.sdk.cli.context import CliContext
from taskloom.sdk.cli.main import root

SQUAD = Path(__file__).parents[2] / "data" / "squadshifts-sample.json"


def run(*words: str, stdin: str | None = None, obj: Any = None) -> Result:
    return CliRunner().invoke(root, ["kb", *words], input=stdin, obj=obj, prog_name="taskloom")


def as_json(*words: str, stdin: str | None = None, status: int = 0, obj: Any = None) -> Any:
    result = run(*words, "--json", stdin=stdin, obj=obj)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def rows(path: Path, *documents: Any) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents), encoding="utf-8")
    return path


WIFI = {"document_id": "wifi", "text": "To start over, hold the reset button.", "title": "Router", "metadata": {"year": 2026}}
ZH = {"document_id": "zh", "text": "按住复位按钮十秒钟即可恢复出厂设置。", "title": "路由器手册"}


@pytest.fixture
def handbook(served: Served, tmp_path: Path) -> Path:
    """The base `handbook` on a served gateway, with two documents; the file that they came from."""
    as_json("create", "handbook")
    path = rows(tmp_path / "documents.jsonl", WIFI, ZH)
    as_json("add", "handbook", str(path))
    return path


def test_create_list_and_stats(served: Served) -> None:
    made = as_json("create", "handbook", "--shared", "--config", "overlap=2")
    assert (made["base"], made["shared"]) == ("handbook", True)
    assert served.engine.kept["handbook"].spec.config == {"overlap": 2}
    assert [info["base"] for info in as_json("list")["bases"]] == ["handbook"]
    assert "handbook" in run("list").stdout
    assert as_json("stats", "handbook")["stats"]["version"] == 0
    assert "embed@1" in run("stats", "handbook").stdout


def test_add_counts_what_changed_and_passes_bad_rows_over(handbook: Path) -> None:
    again = as_json("add", "handbook", str(handbook))
    assert (again["changed"], again["unchanged"], again["version"]) == (0, 2, 1)
    handbook.write_text(handbook.read_text() + '{torn\n[1]\n{"document_id": "x"}\n{"document_id": "new", "text": "y"}\n')
    told = as_json("add", "handbook", str(handbook), status=5)
    assert (told["changed"], told["unchanged"]) == (1, 2)
    assert [one["document_id"] for one in told["refused"]] == [f"documents.jsonl:{line}" for line in (3, 4, 5)]
    shown = run("add", "handbook", str(handbook))
    assert shown.exit_code == 5
    assert "passed over: documents.jsonl:5: " in shown.stderr
    assert "3 unchanged, 3 passed over; handbook is at version 2" in shown.stdout


def test_a_document_that_fits_into_no_message_keeps_no_other_out(served: Served, tmp_path: Path) -> None:
    as_json("create", "b")
    path = rows(tmp_path / "d.jsonl", WIFI, {"document_id": "big", "text": "x" * 5_000_000}, ZH)
    told = as_json("add", "b", str(path), status=5)
    assert (told["changed"], [one["document_id"] for one in told["refused"]]) == (2, ["big"])
    assert "split it into several" in told["refused"][0]["reason"]


@pytest.mark.parametrize("before", [1, 400])
def test_a_line_that_is_no_utf8_keeps_no_other_out(served: Served, tmp_path: Path, before: int) -> None:
    """Wherever it stands: files are read in blocks."""
    as_json("create", "b")
    good = [json.dumps({"document_id": str(n), "text": "x" * 60}).encode() + b"\n" for n in range(before + 1)]
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(good[:-1]) + b'{"document_id": "bad", "text": "\xb2\xbb"}\n' + good[-1])
    told = as_json("add", "b", str(path), status=5)
    assert (told["changed"], [one["document_id"] for one in told["refused"]]) == (before + 1, [f"d.jsonl:{before + 1}"])
    assert "utf-8" in told["refused"][0]["reason"]


def test_add_reads_stdin_and_sends_batches_that_are_each_acknowledged(served: Served, tmp_path: Path) -> None:
    as_json("create", "b")
    lines = "".join(json.dumps({"document_id": str(n), "text": "x"}) + "\n" for n in range(5))
    assert as_json("add", "b", "-", "--batch", "2", stdin=lines)["version"] == 3
    assert served.engine.upserts == 3


def test_an_add_that_breaks_off_says_how_far_it_came(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_json("create", "b")
    path = rows(tmp_path / "d.jsonl", *({"document_id": str(n), "text": "x"} for n in range(4)))
    whole = served.engine.upsert

    async def second_fails(*given: Any) -> Any:
        if served.engine.upserts:
            raise UnavailableError("away")
        return await whole(*given)

    monkeypatch.setattr(served.engine, "upsert", second_fails)
    result = run("add", "b", str(path), "--batch", "2", "--timeout", "0.5", "--json")
    assert result.exit_code == 3
    assert "(2 documents are in; the same command goes on from there)" in json.loads(result.stderr)["error"]["message"]


class ReaderHook(KnowledgeHook):
    """Reads any file as one document, and refuses those called `bad`."""

    @hookimpl
    def read_documents(self, paths: Any) -> Any:
        for path in paths:
            if path.stem == "bad":
                yield Refused(document_id=path.name, reason="it is encrypted")
            else:
                yield Document(document_id=path.name, text=path.read_text())


def context_with(hook: object) -> CliContext:
    """The tool with no plugin but this one, beside its own commands."""
    cli = CliContext()
    registry = load_registry()
    fresh = load_registry([])
    registry.hooks = fresh.hooks
    assert registry.hooks is not None
    registry.hooks.register(hook)
    cli.__dict__["registry"] = registry
    return cli


def test_files_of_other_kinds_are_read_by_the_plugin(served: Served, tmp_path: Path) -> None:
    as_json("create", "b")
    (tmp_path / "page.md").write_text("# Title")
    (tmp_path / "bad.pdf").write_text("")
    faq = rows(tmp_path / "faq.jsonl", {"question": "q", "answer": "a"})
    paths = [str(tmp_path / "page.md"), str(tmp_path / "bad.pdf"), str(faq)]
    told = as_json("add", "b", *paths, status=5, obj=context_with(ReaderHook(None)))
    assert told["refused"] == [{"document_id": "bad.pdf", "reason": "it is encrypted"}]
    assert set(served.engine.kept["b"].versions[-1]) == {"page.md", "faq.jsonl"}


def test_without_the_plugin_other_files_name_the_install_line_and_json_lines_work(served: Served, tmp_path: Path) -> None:
    as_json("create", "b")
    (tmp_path / "page.md").write_text("# Title")
    bare = context_with(KnowledgeHook(None))
    result = run("add", "b", str(tmp_path / "page.md"), obj=bare)
    assert result.exit_code == 1
    assert "pip install 'taskloom[local]'" in result.stderr
    assert as_json("add", "b", str(rows(tmp_path / "d.jsonl", WIFI)), obj=bare)["changed"] == 1


def test_ask_shows_the_answer_where_it_stands_and_its_source(handbook: Path) -> None:
    shown = run("ask", "handbook", "where is the reset?").stdout
    assert "reset  confidence 0.75" in shown
    assert "1  Router  [wifi]" in shown
    assert "hold the reset button" in shown
    answer = as_json("ask", "handbook", "where is the reset?", "--passages", "1", "--turn", "my wifi", "yes")
    assert (answer["answer"], answer["understood_as"]) == ("reset", "my wifi where is the reset?")
    assert answer["sources"][0]["document_id"] == "wifi"
    nothing = run("ask", "handbook", "who?")
    assert nothing.exit_code == 0
    assert "nothing that the base holds is sure enough" in nothing.stdout


def test_search_filters_and_takes_a_mode_and_a_version(handbook: Path, served: Served) -> None:
    found = as_json("search", "handbook", "x", "--where", "year=2026", "--mode", "dense", "--version", "1")
    assert [hit["passage"]["document_id"] for hit in found["hits"]] == ["wifi"]
    call = served.engine.calls[-1]
    assert (call.where, call.version, getattr(call, "mode", "")) == ({"year": 2026}, 1, "dense")
    assert "路由器手册  [zh]" in run("search", "handbook", "x").stdout
    assert "nothing was found" in run("search", "handbook", "x", "--where", "year=1999").stdout


@pytest.fixture
def firms(served: Served, tmp_path: Path) -> None:
    """A base with a graph."""
    as_json("create", "firms", "--config", "graph=true")
    as_json("add", "firms", str(rows(tmp_path / "firms.jsonl", {"document_id": "own", "text": "Ann owns Bolt"})))


def test_graph_shows_where_a_name_stands_and_what_it_is_related_to(firms: None, handbook: Path, served: Served) -> None:
    shown = run("graph", "firms", "Ann").stdout
    for word in ("ann", "PER", "own#0", "0-3", "owns", "bolt", "0.50"):
        assert word in shown
    told = as_json("graph", "firms", "Ann", "--hops", "2", "--limit", "5", "--version", "1")
    assert [(one["head"], one["relation"], one["tail"], one["hop"]) for one in told["relations"]] == [
        ("ann", "owns", "bolt", 2)
    ]
    call = served.engine.calls[-1]
    assert isinstance(call, GraphCall)
    assert (call.limit, call.version) == (5, 1)
    assert "2 entities, 1 mentions, 1 relations" in run("stats", "firms").stdout
    assert "entities" not in run("stats", "handbook").stdout
    missing = run("graph", "handbook", "Ann", "--json")
    assert missing.exit_code == 1
    assert "keeps no graph" in json.loads(missing.stderr)["error"]["message"]


def test_what_came_by_the_graph_is_marked(firms: None) -> None:
    assert "graph 0.250" in run("search", "firms", "x", "--mode", "graph").stdout
    assert "graph" not in run("search", "firms", "x").stdout
    assert "by the graph" in run("ask", "firms", "what is owns?", "--mode", "graph").stdout
    assert "by the graph" not in run("ask", "firms", "what is owns?").stdout
    as_json("configure", "firms", "--writer", "writer")
    assert "by the graph" in run("ask", "firms", "what is owns?", "--mode", "graph", "--stream").stdout


def test_versions_snapshot_rollback_and_remove(handbook: Path) -> None:
    assert as_json("snapshot", "handbook", "before")["name"] == "before"
    assert as_json("remove", "handbook", "wifi") == {"base": "handbook", "version": 2, "removed": 1}
    assert as_json("rollback", "handbook", "1") == {"base": "handbook", "version": 3}
    assert [info["number"] for info in as_json("versions", "handbook")["versions"]] == [3, 2, 1]
    assert "before" in run("versions", "handbook").stdout
    assert "version 1 of handbook is not kept as before any more" in run("snapshot", "handbook", "before", "--drop").stdout
    assert "before" not in run("versions", "handbook").stdout
    missing = run("remove", "handbook", "wlan", "--json")
    assert missing.exit_code == 1
    assert json.loads(missing.stderr)["error"]["code"] == "not_found"


def test_a_base_is_dropped_only_on_purpose(handbook: Path) -> None:
    assert run("drop", "handbook").exit_code == 2
    assert len(as_json("list")["bases"]) == 1
    assert as_json("drop", "handbook", "--yes")["dropped"] is True
    assert "taskloom kb create" in run("list").stdout


def test_a_key_without_the_role_is_a_matter_of_permission(handbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKLOOM_API_KEY", "key-kb")
    assert run("ask", "handbook", "where is the reset?").exit_code == 0
    result = run("remove", "handbook", "wifi", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stderr)["error"]["code"] == "permission_denied"


def test_configure_and_an_answer_that_is_shown_while_it_is_written(served: Served, handbook: Path) -> None:
    words = ("--reranker", "ranker", "--candidates", "7", "--writer", "writer", "--param", "max_tokens=60")
    told = as_json("configure", "handbook", *words)["answering"]
    assert (told["reranker"], told["candidates"], told["writer"], told["params"]) == ("ranker", 7, "writer", {"max_tokens": 60})
    assert "ranker, of 7 candidates" in run("stats", "handbook").stdout
    served.engine.writes = ["hold ", "it"]
    shown = run("ask", "handbook", "where is the reset?", "--stream").stdout
    assert shown.startswith("hold it\nconfidence 0.75 that the sources answer it, by reader\nsources\n")
    assert "[wifi]" in shown
    assert "hold it  confidence 0.75" in run("ask", "handbook", "where is the reset?").stdout
    whole = as_json("ask", "handbook", "where is the reset?", "--stream")
    assert (whole["kind"], whole["answer"], whole["ranking"][0]["score"]) == ("written", "hold it", 0.5)
    assert "no answer" in run("ask", "handbook", "who?", "--stream").stdout
    assert as_json("configure", "handbook")["answering"]["writer"] == ""
    assert run("configure", "handbook", "--candidates", "0").exit_code == 2


def test_local_asks_the_bases_of_this_process(home: Path) -> None:
    cli = context_with(KnowledgeHook(MemoryKnowledge()))
    assert as_json("create", "b", "--local", obj=cli)["base"] == "b"
    assert run("list", "--local", "--address", "localhost:1", obj=cli).exit_code == 2


def test_a_chinese_answer_is_marked_and_keeps_the_width() -> None:
    text = "背景介绍。" * 30 + "按住复位按钮十秒钟。" + "其他说明。" * 30
    start = text.index("十秒钟")
    source = Source(
        document_id="d", passage_id="d#0", title="手册", passage=text, answer="十秒钟", start=start, end=start + 3, score=1
    )
    answer = KnowledgeAnswer(kind="span", answer="十秒钟", confidence=0.9, language="zh", sources=(source,), version=1)
    console = Console(width=60, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(kb_render.answer_shown(answer))
    styled = console.export_text(clear=False, styles=True)
    lines = console.export_text().splitlines()
    assert max(cell_len(line) for line in lines) <= 60
    assert "\x1b[1m十秒钟\x1b[0m" in styled
    assert "手册  [d] 1.000" in "".join(lines)
    console.file.close()


def test_examples_in_docstrings() -> None:
    import doctest

    for module in (kb, kb_render):
        assert doctest.testmod(module).failed == 0


# -- eval ------------------------------------------------------------------------------------------------------------------


def known(path: Path) -> Path:
    right = {"question": "How do I reset it?", "document": "wifi", "answers": ["hold the reset button"]}
    return rows(path, right, {"question": "What is the price?"})


def test_eval_shows_every_way_of_searching_side_by_side_and_draws_the_risk(handbook: Path, tmp_path: Path) -> None:
    questions, plot = known(tmp_path / "questions.jsonl"), tmp_path / "risk.png"
    told = as_json("eval", "handbook", str(questions), "--plot", str(plot))
    assert list(told["figures"]["modes"]) == ["dense", "sparse", "hybrid"]
    assert told["figures"]["modes"]["dense"]["metrics"]["recall@1"] == 1.0
    assert set(told["figures"]["modes"]["dense"]["intervals"]) >= {"recall@1", "recall@5", "recall@20", "mrr", "ndcg@10"}
    assert told["figures"]["answers"]["risk"][-1]["coverage"] == 1.0
    assert (told["build"], told["base"]["stats"]["disk_bytes"]) == (None, 2048)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    shown = run("eval", "handbook", str(questions)).stdout
    assert "handbook at version 1: 2 documents, 2 passages; 2 questions" in shown
    for word in ("dense", "sparse", "hybrid", "end to end", "MRR", "nDCG@10", "index: flat 64 B; 2.0 kB on disk"):
        assert word in shown


def test_eval_shows_the_re_ranked_order_beside_the_fused_one(served: Served, handbook: Path, tmp_path: Path) -> None:
    as_json("configure", "handbook", "--reranker", "ranker")
    told = as_json("eval", "handbook", str(known(tmp_path / "questions.jsonl")))
    assert list(told["figures"]["modes"]) == ["dense", "sparse", "hybrid", "reranked"]
    assert "reranked" in {call.mode for call in served.engine.calls if isinstance(call, SearchCall)}


def test_eval_shows_what_the_graph_adds_where_the_base_keeps_one(firms: None, tmp_path: Path) -> None:
    questions = rows(tmp_path / "q.jsonl", {"question": "who owns?", "document": "own", "answers": ["owns"]})
    told = as_json("eval", "firms", str(questions))["figures"]
    assert list(told["modes"]) == ["dense", "sparse", "hybrid", "graph"]
    assert told["graph_gain"]["metrics"]["recall@5"] == 0.0
    assert told["graph_gain"]["intervals"]["mrr"] == [0.0, 0.0]
    shown = run("eval", "firms", str(questions)).stdout
    assert "graph less hybrid: recall@1 +0.000 (+0.000 to +0.000)" in shown
    as_json("configure", "firms", "--reranker", "ranker")
    both = as_json("eval", "firms", str(questions))["figures"]
    assert list(both["modes"]) == ["dense", "sparse", "hybrid", "graph", "reranked"]
    assert both["graph_gain"] == told["graph_gain"]


def test_eval_asks_for_every_answer_and_reads_as_told(served: Served, handbook: Path, tmp_path: Path) -> None:
    questions = rows(tmp_path / "q.jsonl", *({"question": f"reset {n}?", "answers": ["reset"]} for n in range(9)))
    as_json("eval", "handbook", str(questions), "--passages", "3", "--version", "1", "--sample", "1")
    (asked,) = [call for call in served.engine.calls if isinstance(call, AskCall)]
    assert (asked.threshold, asked.passages, asked.version) == (0.0, 3, 1)


def test_eval_builds_from_squads_paragraphs_and_says_how_fast(served: Served) -> None:
    as_json("create", "squad")
    told = as_json("eval", "squad", str(SQUAD), "--build")
    assert told["build"]["documents"] == told["build"]["passages"] == told["base"]["stats"]["documents"] == 9
    assert told["build"]["passages_per_s"] > 0
    assert told["figures"]["modes"]["hybrid"]["metrics"]["recall@20"] == 1.0
    assert "passages/s" in run("eval", "squad", str(SQUAD), "--build").stdout


def test_eval_says_what_is_wrong_with_its_files(handbook: Path, tmp_path: Path) -> None:
    questions = known(tmp_path / "questions.jsonl")
    told = run("eval", "handbook", str(questions), "--build")
    assert told.exit_code == 1
    assert "leave out --build" in told.stderr
    nowhere = run("eval", "handbook", str(questions), "--plot", str(tmp_path / "no" / "risk.png"))
    assert "there is no folder" in nowhere.stderr
    bad = rows(tmp_path / "bad.jsonl", {"query": "x"})
    assert "bad.jsonl, line 1: unknown field 'query'" in run("eval", "handbook", str(bad)).stderr


def test_eval_without_a_plugin_that_measures_says_how_to_get_one(served: Served, handbook: Path, tmp_path: Path) -> None:
    questions = known(tmp_path / "questions.jsonl")
    told = run("eval", "handbook", str(questions), obj=context_with(KnowledgeHook(None)))
    assert told.exit_code != 0
    assert "pip install 'taskloom[local]'" in told.stderr
