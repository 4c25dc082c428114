"""A vocabulary made from text, as the tokenizer that BERT has: single Chinese characters, and pieces of other words.

Pieces are found by merging the most frequent pair of neighbours again and again (Sennrich et al. 2016,
https://arxiv.org/abs/1508.07909, algorithm 1), on words as BERT's tokenizer splits them; `##` marks a piece inside a word. It
is our own because the trainer in `tokenizers` breaks ties by the order of a hash map, and a recipe must give the same tokens
again.
"""

from __future__ import annotations

import heapq
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.fill_mask.schema import MASK, NetworkSettings

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", MASK)
"""In the order in which BERT's own vocabularies have them, and under the names that its tokenizer gives them by default."""
PREFIX = "##"
DIFFERENT_WORDS = 2_000_000
"""Words in memory at a time; beyond, those seen once are forgotten."""
VOCABULARY_FILE = "vocab.txt"

Pair = tuple[str, str]


def build_vocabulary(texts: Iterable[str], settings: NetworkSettings) -> list[str]:
    """The tokens in the order of their ids: special ones, then characters, then pieces, each by frequency. Raises `DataError`
    for texts without a word."""
    words = count_words(texts, lowercase=settings.lowercase)
    if not words:
        raise DataError("there is no word in the texts to make a vocabulary from")
    split = {word: symbols(word) for word in words}
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for symbol in split[word]:
            counts[symbol] += times
    room = max(len(SPECIAL), int(settings.vocabulary * settings.characters)) - len(SPECIAL)
    certain = set(_latin())
    ranked = sorted(counts.keys() | certain, key=lambda symbol: (symbol not in certain, -counts[symbol], symbol))
    characters = sorted(ranked[: max(room, len(certain))], key=lambda symbol: (-counts[symbol], symbol))
    known = set(characters)
    usable = {word: times for word, times in words.items() if len(split[word]) > 1 and known.issuperset(split[word])}
    left = settings.vocabulary - len(SPECIAL) - len(characters)
    pieces = merged_pieces({word: (split[word], times) for word, times in usable.items()}, known, left)
    return [*SPECIAL, *characters, *pieces]


def count_words(texts: Iterable[str], *, lowercase: bool) -> Counter[str]:
    """How often each word is in the texts, split and folded as BERT's tokenizer does before it looks for pieces."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, splitter = BertNormalizer(lowercase=lowercase), BertPreTokenizer()
    rough: Counter[str] = Counter()
    for text in texts:
        rough.update(normalizer.normalize_str(text).split())
        if len(rough) > DIFFERENT_WORDS:
            rough = Counter({word: times for word, times in rough.items() if times > 1})
    found: Counter[str] = Counter()
    for word, times in rough.items():
        for part, _ in splitter.pre_tokenize_str(word):
            found[part] += times
    return found


def symbols(word: str) -> list[str]:
    """
    >>> symbols("abc")
    ['a', '##b', '##c']
    """
    return [word[0], *(PREFIX + character for character in word[1:])]


def joined(pair: Pair) -> str:
    return pair[0] + pair[1].removeprefix(PREFIX)


def merged_pieces(words: Mapping[str, tuple[list[str], int]], known: set[str], wanted: int) -> list[str]:
    """At most `wanted` pieces that are not `known`, in the order in which they are made. `words` are symbols and counts."""
    content = {word: list(parts) for word, (parts, _) in words.items()}
    times = {word: count for word, (_, count) in words.items()}
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, parts in content.items():
        for pair in _pairs(parts):
            counts[pair] += times[word]
            where[pair].add(word)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(queue)
    found: list[str] = []
    made = set(known)
    while queue and len(found) < wanted:
        count, pair = heapq.heappop(queue)
        if counts[pair] != -count:
            continue  # an older count; the present one is in the queue too
        if -count < 2:
            break
        piece = joined(pair)
        if piece not in made:
            made.add(piece)
            found.append(piece)
        changed: set[Pair] = set()
        for word in where.pop(pair):
            before, after = content[word], _merge(content[word], pair, piece)
            content[word] = after
            for old in _pairs(before):
                counts[old] -= times[word]
                changed.add(old)
                where[old].discard(word)
            for new in _pairs(after):
                counts[new] += times[word]
                changed.add(new)
                where[new].add(word)
        for one in changed:
            if counts[one] > 0 and one != pair:
                heapq.heappush(queue, (-counts[one], one))
    return found


def _pairs(parts: list[str]) -> Iterator[Pair]:
    return pairwise(parts)


def _merge(parts: list[str], pair: Pair, piece: str) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(parts):
        if tuple(parts[at : at + 2]) == pair:
            found.append(piece)
            at += 2
        else:
            found.append(parts[at])
            at += 1
    return found


def _latin() -> Iterator[str]:
    """What any Latin word, number and address can be written with, whether the texts have it or not."""
    for character in string.ascii_lowercase + string.digits:
        yield character
        yield PREFIX + character
    yield from string.punctuation


def make_tokenizer(tokens: Iterable[str], settings: NetworkSettings) -> Any:
    """The transformers tokenizer with these tokens."""
    import transformers

    make: Any = transformers.BertTokenizerFast  # type: ignore[attr-defined]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return make(vocab=vocabulary, do_lower_case=settings.lowercase, model_max_length=settings.positions)


def table_size(processor: Any) -> int:
    """One more than the greatest id: some vocabularies leave ids out."""
    ids: Mapping[str, int] = processor.get_vocab()
    return 1 + max(ids.values())


def write_vocabulary(processor: Any, folder: Path) -> None:
    """`vocab.txt`, one token a line in the order of their ids, which older readers of BERT's tokenizer ask for."""
    ids: Mapping[str, int] = processor.get_vocab()
    lines = sorted(ids, key=ids.__getitem__)
    (folder / VOCABULARY_FILE).write_text("".join(f"{token}\n" for token in lines), encoding="utf-8")
