"""A support desk that answers from a folder of documents, in English and Chinese, and names its sources.

python assistant.py                          answers a few questions
python assistant.py "Where is the repair?"   answers yours
python assistant.py --chat                   goes on asking; "and ...?" is understood from the question before
"""

from __future__ import annotations

import argparse
from collections import deque
from pathlib import Path

import taskloom.sdk
from taskloom.core.knowledge import Document
from taskloom.core.knowledge_calls import KnowledgeAnswer, Turn
from taskloom.plugins.retrieval.documents.reading import read_documents
from taskloom.sdk import Knowledge

DOCUMENTS = Path(__file__).parent / "documents"
BASE = "support-desk"
QUESTIONS = (
    "Where is the service centre?",
    "How many repeaters can I use together?",
    "How do I set up a guest network?",
    "如何恢复出厂设置?",
    "路由器的初始密码是什么?",
    "Who won the football match yesterday?",
    "昨天的足球比赛谁赢了?",
)
REMEMBERED = 4


def main() -> None:
    asked = _arguments()
    with taskloom.sdk.local(["embed-en", "embed-zh", "qa-en", "qa-zh"], home=asked.home) as client:
        desk = opened_desk(client)
        turns: deque[Turn] = deque(maxlen=REMEMBERED)
        questions = asked.question or (() if asked.chat else QUESTIONS)
        for question in questions:
            print(f"\n> {question}")
            show(desk.ask(question))
        while asked.chat and (question := input("\n> ").strip()):
            told = desk.ask(question, turns=tuple(turns))
            show(told)
            turns.append(Turn(question=question, answer=told.answer))


def opened_desk(client: taskloom.sdk.LocalClient) -> Knowledge:
    """The knowledge base, with what the folder holds now: what has not changed since is not embedded again."""
    if BASE not in [info.base for info in client.knowledge_bases()]:
        client.create_knowledge(BASE)
    desk = client.knowledge(BASE)
    read = list(read_documents([DOCUMENTS]))
    for refused in (one for one in read if not isinstance(one, Document)):
        print(f"passed over: {refused.document_id}: {refused.reason}")
    done = desk.upsert([one for one in read if isinstance(one, Document)])
    print(f"{len(done.changed)} documents read, {len(done.unchanged)} unchanged")
    return desk


def show(told: KnowledgeAnswer) -> None:
    if told.understood_as:
        print(f"(understood as: {told.understood_as})")
    if told.kind == "none":
        near = ", ".join(dict.fromkeys(source.document_id for source in told.sources[:3]))
        print(f"I don't know. What comes nearest is in {near}." if near else "I don't know.")
        return
    source = told.sources[0]
    print(f"{told.answer}  [{source.document_id}, {told.confidence:.0%} sure]")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("question", nargs="*")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--home", help="where state lives; by default as for the command line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
