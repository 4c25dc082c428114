"""The whole server in a process of its own: keys and audit log on SQLite, models in that process, signals from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_fakes import bearer, failure, until

from taskloom.core.settings import load_settings
from taskloom.core.wire.gen import inference_pb2 as pb
from taskloom.core.wire.gen import inference_pb2_grpc
from taskloom.server.audit import AuditQuery, open_reader, verify_log

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FAKES = Path(__file__).parent / "fakes"
ENGINE_FAKES = Path(__file__).parents[1] / "engine" / "fakes"
Code = grpc.StatusCode


@dataclass
class Served:
    process: asyncio.subprocess.Process
    address: str
    key: str
    home: Path

    def stub(self, channel: grpc.aio.Channel) -> Callable[[str], Any]:
        infer = inference_pb2_grpc.InferenceStub(channel).Infer

        def ask(text: str, **fields: Any) -> Any:
            request = pb.InferRequest(model="echo", **fields)
            request.json.update({"text": text})
            return infer(request, metadata=bearer(self.key))

        return ask

    async def records(self) -> list[Any]:
        reader = open_reader(load_settings(overrides={"home": str(self.home)}))
        try:
            return list(reader.query(AuditQuery(limit=100_000)))
        finally:
            reader.close()


def private_key(path: Path) -> str:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text().strip()


@asynccontextmanager
async def served(home: Path, *arguments: str) -> AsyncIterator[Served]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FAKES / "serve_echo.py"),
        str(ENGINE_FAKES),
        str(home),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TASKLOOM_TELEMETRY__LOG_FORMAT": "json"},
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        assert ready["models"] == ["echo@1"]
        yield Served(process, ready["address"], private_key(Path(ready["key_file"])), home)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_under_load_answers_every_accepted_call(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        outcomes: list[grpc.StatusCode] = []

        async def caller() -> None:
            async with grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                ask = server.stub(channel)
                while (code := await ask("hello").code()) is Code.OK:
                    outcomes.append(code)
                outcomes.append(code)

        async with asyncio.TaskGroup() as callers:
            for _ in range(16):
                callers.create_task(caller())
            await until(lambda: len(outcomes) > 100, 60)
            server.process.send_signal(signal.SIGTERM)
        _, said = await server.process.communicate()
        assert server.process.returncode == 0, said.decode()
        assert set(outcomes) == {Code.OK, Code.UNAVAILABLE}
        records = await server.records()
        accepted = {r.request_id for r in records if r.kind == "accepted"}
        completed = {r.request_id for r in records if r.kind == "completed"}
        assert accepted == completed
        assert len(completed) == outcomes.count(Code.OK)
        assert [r.action for r in records if r.kind == "event"] == ["key.create", "server.start", "server.stop"]
        verified = verify_log(load_settings(overrides={"home": str(tmp_path)}))
        assert verified.verified
        lines = [json.loads(line) for line in said.decode().splitlines()]
        assert any("ready on" in line["message"] for line in lines)


async def test_a_second_start_keeps_the_key_and_the_chain(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        async with served(tmp_path) as server:
            keys.append(server.key)
            async with grpc.aio.insecure_channel(server.address) as channel:
                answer = await server.stub(channel)("hello", request_id="same")
                assert answer.json["text"] == "hello"
                status, error = await failure(server.stub(channel)(""))
                assert (status, error.code) == (Code.INVALID_ARGUMENT, "invalid_input")
            server.process.send_signal(signal.SIGINT)
            await server.process.communicate()
            assert server.process.returncode == 0
    assert keys[0] == keys[1]
    assert [r.action for r in await server.records() if r.kind == "event"].count("key.create") == 1


async def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FAKES / "serve_echo.py"),
        str(ENGINE_FAKES),
        str(tmp_path),
        "--host",
        "0.0.0.0",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert process.returncode != 0
    assert said == b""
    assert b"insecure_public" in complained
