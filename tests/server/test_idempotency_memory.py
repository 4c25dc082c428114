"""What is kept of answers for calls with the same idempotency key."""

from __future__ import annotations

from taskloom.core.types import InferResult, Timings
from taskloom.server.idempotency import IdempotentRuns

TIMINGS = Timings(queue_s=0, compute_s=0, total_s=0, batch_size=1)


async def answer(text: str) -> InferResult:
    return InferResult(request_id="r", model="m", version="1", task="t", output={"text": text}, timings=TIMINGS)


async def test_answers_are_kept_by_their_size_and_not_only_by_their_number() -> None:
    runs = IdempotentRuns(ttl_s=60, max_answers=100, max_bytes=1000)
    for n in range(10):
        await runs.lead(("ada", str(n)), b"", answer("x" * 288))  # 300 bytes as JSON
    kept = [n for n in range(10) if await runs.join(("ada", str(n)), b"") is not None]
    assert kept == [7, 8, 9]
    await runs.lead(("ada", "small"), b"", answer(""))
    await runs.lead(("ada", "large"), b"", answer("x" * 2000))
    assert await runs.join(("ada", "large"), b"") is None, "what alone is too large is not kept"
    await runs.lead(("ada", "again"), b"", answer("x" * 288))
    assert await runs.join(("ada", "again"), b"") is not None
