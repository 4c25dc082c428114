"""The process that reads formats which a hostile file could make endless: one request a line on stdin, one reply a line on
stdout, both JSON. It may take so much memory, and so much processor time for each file; the system ends it if it takes more.

    python -P -m taskloom.plugins.retrieval.documents.worker MEMORY_BYTES SECONDS
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from taskloom.plugins.retrieval.documents.decoding import Undecodable
from taskloom.plugins.retrieval.documents.html_text import Unreadable, read_html
from taskloom.plugins.retrieval.documents.markdown_text import read_markdown
from taskloom.plugins.retrieval.documents.pdf_text import read_pdf

READERS: Mapping[str, Callable[[bytes], dict[str, str]]] = {"html": read_html, "markdown": read_markdown, "pdf": read_pdf}


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    warnings.simplefilter("ignore")
    memory_bytes, seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, replies, seconds, memory_bytes)


def serve(requests: BinaryIO, replies: BinaryIO, seconds: int, memory_bytes: int) -> None:
    for line in requests:
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds + 1, resource.RLIM_INFINITY))
        reply = answer(request["kind"], Path(request["path"]), request["most_characters"], memory_bytes)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def answer(kind: str, path: Path, most_characters: int, memory_bytes: int) -> dict[str, str]:
    """`text`, `title` and `language` of a file; or `refused`, the reason; or `missing`, a library that isn't installed."""
    try:
        found = READERS[kind](path.read_bytes())
    except ImportError as exc:
        return {"missing": str(exc.name or exc)}
    except Exception as exc:
        return {"refused": _reason(exc, memory_bytes)}
    if len(found["text"]) > most_characters:
        return {"refused": f"it has {len(found['text'])} characters of text; {most_characters} are the most; split it"}
    return found


def _reason(problem: Exception, memory_bytes: int) -> str:
    match problem:
        case Undecodable() | Unreadable():
            return str(problem)
        case OSError():
            return f"it can't be read: {problem.strerror}"
        case MemoryError():
            return f"reading it takes more than {memory_bytes >> 20} MiB of memory"
        case _:  # a library's defect on this one file
            return f"it can't be read: {type(problem).__name__}: {str(problem)[:200]}"


if __name__ == "__main__":
    main()
