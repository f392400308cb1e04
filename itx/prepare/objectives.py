# SPDX-License-Identifier: Apache-2.0
"""Plain text as training data: a document is cut into chunks, each of which becomes a record of two
pieces.

    lm                [], chunk                decoder-only: an encoder would read nothing
    prefix_lm         chunk[:k], chunk[k:]     k drawn; T5's `prefix_lm` where the target may be as
                      long as the chunk
    span_corruption   chunk with each noise span as one sentinel; the spans, a sentinel before each
                      (Raffel et al. 2020, section 3.1.4, https://arxiv.org/abs/1910.10683)

    a b c d e f g, noise c d and f  ->  a b <0> e <1> g  and  <0> c d <1> f,  <i> = last id of the
    vocabulary - i

Chunks are the same in every rendering (the cache and the leak test rely on it), what is drawn is
not: pure functions of (render_seed, task, example/chunk, rendering). Documents are not joined, as
T5 does to fill its rows: packing fills ours. A chunk ends in EOS, as in T5's `lm` and `prefix_lm`,
wherever in its document it stands.

The noise comes from TensorFlow's stateless generator, written out in NumPy, so that from equal
seeds the masks are T5's own, and no NumPy version changes them.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from itx import text
from itx.data.cache import Record, Texts
from itx.data.vocabulary import SENTINELS, Vocabulary
from itx.errors import UserError
from itx.hashing import draw
from itx.prepare import exclude, values
from itx.prepare.records import Bad
from itx.prepare.types import Item, Job, Records, Rendered, Room, Settings, Work
from itx.tasks.spec import TaskSpec, Values

# Raise it when a change here alters a record: it is part of the cache keys of plain text.
OBJECTIVES_VERSION = 1
NOISE_DENSITY, MEAN_SPAN = np.float32(0.15), np.float32(3.0)  # T5's, in the precision of its graph
STRADDLE = 80  # characters behind a chunk that the leak test reads with it, about 12 words
# The fewest tokens that give a target, and a prompt where there is one
MIN_TOKENS = {"lm": 1, "prefix_lm": 2, "span_corruption": 2}


# ---- noise


def philox(counter: Sequence[int], key: Sequence[int], n: int) -> np.ndarray:
    """n words of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3");
    uint32 [n].

    Args:
        counter: four words of 32 bits, the first two of which count on.
        key: two words.
    """
    first, low, u = counter[0] | counter[1] << 32, np.uint64(2**32 - 1), np.uint64
    count = u(first) + np.arange(-(-n // 4), dtype=np.uint64)
    a, b = count & low, count >> u(32)
    c, d = np.full_like(a, counter[2]), np.full_like(a, counter[3])
    for i in range(10):
        k, m = ((key[j] + i * w) % 2**32 for j, w in enumerate((0x9E3779B9, 0xBB67AE85)))
        x, y = a * u(0xD2511F53), c * u(0xCD9E8D57)
        a, b, c, d = (y >> u(32)) ^ b ^ u(k), y & low, (x >> u(32)) ^ d ^ u(m), x & low
    return np.stack([a, b, c, d], 1).reshape(-1)[:n].astype(np.uint32)


def random_words(seed: tuple[int, int], n: int) -> np.ndarray:
    """The words behind tf.random.stateless_uniform of this seed (two numbers of 64 bits); uint32
    [n]."""
    counter = [seed[0] % 2**32, seed[0] >> 32, seed[1] % 2**32, seed[1] >> 32]
    # TensorFlow's scramble of the seed
    mixed = philox(counter, (0x3EC8F720, 0x02461E29), 4).tolist()
    return philox((0, 0, *mixed[2:]), mixed[:2], n)


def _shuffled(values: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """seqio.stateless_shuffle: in the order of uniform numbers, which have 23 bits and hence
    ties."""
    return values[np.argsort(random_words(seed, len(values)) & np.uint32(0x7FFFFF), kind="stable")]


def noise_counts(length: int) -> tuple[int, int]:
    """(noise tokens, noise spans) of so many tokens; at least one of each, and one token that is
    none."""
    tokens = min(max(int(np.round(np.float32(length) * NOISE_DENSITY)), 1), max(length, 2) - 1)
    return tokens, max(int(np.round(np.float32(tokens) / MEAN_SPAN)), 1)


def noise_mask(length: int, seed: tuple[int, int]) -> np.ndarray:
    """T5's random_spans_noise_mask; bool [length], true where a token is noise.

    Spans alternate and begin with one that is kept. Their number is fixed by the length, and all
    ways to cut the noise, and the rest, into so many parts are equally likely.
    """
    words = random_words(seed, 8).astype(np.uint64)
    # tf.random.experimental.stateless_split
    halves = (words[::2] | words[1::2] << np.uint64(32)).tolist()
    tokens, spans = noise_counts(length)

    def parts(n: int, seed: tuple[int, int]) -> np.ndarray:
        """Lengths [spans] of non-empty parts of n."""
        begins = np.append(0, _shuffled((np.arange(n - 1) < spans - 1).astype(np.int64), seed))
        return np.bincount(np.cumsum(begins), minlength=spans)

    noise = parts(tokens, (halves[0], halves[1]))
    kept = parts(length - tokens, (halves[2], halves[3]))
    return np.repeat(np.tile([False, True], spans), np.stack([kept, noise], 1).reshape(-1))


def with_sentinels(ids: np.ndarray, mask: np.ndarray, vocab_size: int) -> np.ndarray:
    """T5's noise_span_to_unique_sentinel: run i of masked ids becomes one id, vocab_size - 1 -
    i."""
    follows = mask & np.append(False, mask[:-1])
    first = mask & ~follows
    return np.where(first, vocab_size - np.cumsum(first), ids)[~follows]


def corrupted_lengths(length: int) -> tuple[int, int]:
    """(input, target) tokens that so many become, neither with EOS (T5's random_spans_helper counts
    it)."""
    tokens, spans = noise_counts(length)
    return length - tokens + spans, tokens + spans


def sentinels(vocabulary: Vocabulary) -> int:
    """How many sentinels stand at the vocabulary's end, <extra_id_0> last, as SeqIO and T5 have
    them."""
    n = 0
    while n < vocabulary.size:
        (piece,) = vocabulary.pieces([vocabulary.size - 1 - n])
        if piece.removeprefix("▁") != f"<extra_id_{n}>":
            break
        n += 1
    return n


# ---- chunks


def check(spec: TaskSpec, room: Room, known: int = SENTINELS) -> int:
    """The most tokens of a task's chunks; UserError where its objective and a run do not go
    together.

    Args:
        known: how many sentinels the vocabulary has.
    """
    where, objective = f"text task {spec.name!r}", spec.objective
    if objective == "lm" and room.architecture == "encoder_decoder":
        raise UserError(
            f"{where}: objective 'lm' is for decoder-only models (an encoder would read nothing); "
            "for this run's encoder-decoder take 'prefix_lm' or 'span_corruption'"
        )
    if objective == "span_corruption" and not known:
        raise UserError(
            f"{where}: the vocabulary has no sentinels (a run's own gets them; to SeqIO give "
            f"SentencePieceVocabulary(file, extra_ids={SENTINELS}))"
        )
    size = chunk_size(objective, room, known)
    # With less a chunk could be left that cannot be split.
    if size < max(2 * MIN_TOKENS[objective] - 1, 2):
        raise UserError(
            f"{where}: no text fits rows of {room.length} tokens, {room.targets} of targets"
        )
    return size


def chunk_size(objective: str, room: Room, spans: int = SENTINELS) -> int:
    """The most tokens of a chunk whose record fits a row; T5's random_spans_helper where its
    lengths are given."""
    if objective == "lm":
        return min(room.length, room.targets) - 1  # EOS
    if objective == "prefix_lm":
        return room.length - 1 if room.targets > 1 else 0

    def fits(n: int) -> bool:
        inputs, targets = corrupted_lengths(n)
        used = inputs + 1 if room.architecture == "encoder_decoder" else inputs + targets + 1
        return used <= room.length and targets + 1 <= room.targets and noise_counts(n)[1] <= spans

    n = 1
    while fits(n + 1):
        n += 1
    return n


def cut(length: int, size: int, least: int) -> list[tuple[int, int]]:
    """(from, to) of chunks of `size`; the last is shorter, and the one before it too where `least`
    would be missed."""
    edges = [*range(0, length, size), length]
    if len(edges) > 2 and edges[-1] - edges[-2] < least:
        edges[-2] = edges[-1] - least
    return list(itertools.pairwise(edges))


def chunks(
    spec: TaskSpec,
    items: Iterable[Item],
    vocabulary: Vocabulary,
    room: Room,
    counts: Counter | None = None,
    sized: bool = False,
) -> Iterator[Item]:
    """An item `id/chunk` of token ids per chunk; its content is the chunk's, so that a leak costs
    no whole document. "text" beside them, for the leak test, reads on a little: what a cut divides
    is found in the first part.

    Args:
        counts: as `examples.items` takes them. A document's further chunks count as read too, as
            where `fields` gives several examples.
        sized: with "bytes" beside "tokens", each token's part of the text in UTF-8: they add up to
            the document.
    """
    counts = Counter() if counts is None else counts
    known = sentinels(vocabulary) if spec.objective == "span_corruption" else 0
    size, least = check(spec, room, known), MIN_TOKENS[spec.objective]
    for item in items:
        document = item.values["text"]
        if not isinstance(document, str):
            raise UserError(
                f"text task {spec.name!r}, example {item.id}: 'text' is "
                f"{type(document).__name__}, no text"
            )
        ids = vocabulary.encode(document)
        if len(ids) < least:
            counts["too short to split" if ids else "no text"] += 1
            continue
        if known and max(ids) >= vocabulary.size - known:  # it could not be told from ours
            counts["a sentinel in the text"] += 1
            continue
        spans = cut(len(ids), size, least)
        counts["read"] += len(spans) - 1
        starts = vocabulary.starts(document) if len(spans) > 1 or sized else [0]
        edges = [0, *starts[1:], len(document)]  # where each token begins in the text
        for n, (first, end) in enumerate(spans):
            content, key, shown = item.content, item.hash, document
            if len(spans) > 1:
                begins = starts[first]
                ends = starts[end] if end < len(ids) else len(document)
                content = text.normalise(document[begins:ends])
                key, shown = draw("content", content), document[begins : ends + STRADDLE]
            values = {"tokens": ids[first:end], "text": shown}
            if sized:
                pairs = itertools.pairwise(edges[first : end + 1])
                values["bytes"] = [len(document[a:b].encode()) for a, b in pairs]
            yield Item(f"{item.id}/{n}", values, content, key)


def record(
    spec: TaskSpec,
    item: Item,
    rendering: int,
    render_seed: int,
    vocab_size: int,
    room: Room,
    field: str = "tokens",
) -> Record:
    """The two pieces of a chunk (of `chunks`): what is read, and what is trained."""
    ids = item.values[field]
    h = draw(render_seed, spec.name, item.id)
    if spec.objective == "span_corruption":
        seed = (draw(h, "spans", rendering, 0), draw(h, "spans", rendering, 1))
        mask = noise_mask(len(ids), seed)
        array = np.array(ids)
        inputs, targets = (with_sentinels(array, m, vocab_size).tolist() for m in (mask, ~mask))
        return [(inputs, False), (targets, True)]
    k = 0
    if spec.objective == "prefix_lm":  # all splits whose target fits are equally likely
        least = max(1, len(ids) - (room.targets - 1))
        k = least + draw(h, "prefix", rendering) % (len(ids) - least)
    return [(ids[:k], False), (ids[k:], True)]


def target_bytes(spec: TaskSpec, item: Item, render_seed: int, room: Room) -> list[int]:
    """UTF-8 bytes of the text behind each target token of a chunk's first record; a sentinel stands
    for none."""
    target, _ = record(spec, item, 0, render_seed, 0, room, field="bytes")[1]
    return [max(n, 0) for n in target]


def rendered(spec: TaskSpec, record: Record, vocabulary: Vocabulary) -> Rendered:
    """A record as text, for the examples kept beside it."""
    prompt, target = (vocabulary.decode(ids) for ids, _ in record)
    return Rendered(spec.objective, prompt, target, (target,))


def in_words(spec: TaskSpec, item: Item) -> Rendered | None:
    """What the objective does to a text, with words as tokens: `itx tasks show` knows no
    vocabulary. None: too short."""
    words = item.values["text"].split()
    if len(words) < MIN_TOKENS[spec.objective]:
        return None
    size = len(words) + SENTINELS
    names = [*words, *(f"<extra_id_{i}>" for i in reversed(range(SENTINELS)))]
    chunk = Item(item.id, {"tokens": list(range(min(len(words), 1000)))}, item.content, item.hash)
    prompt, target = (
        " ".join(names[i] for i in ids)
        for ids, _ in record(spec, chunk, 0, 0, size, Room("", 1001, 1001))
    )
    return Rendered(spec.objective, prompt, target, (target,))


# ---- the row in the table of kinds (kinds.py)


def unusable(spec: TaskSpec, given: Values, slots: list[str]) -> Bad | None:
    document = given.get("text")
    if isinstance(document, str):
        return None
    return Bad("unusable field", f"the field 'text' is {values.shown(document)}, no text")


def leak_texts(spec: TaskSpec, item: Item) -> Texts:
    return exclude.texts(item.values["text"], ())


def key(job: Job, spec: TaskSpec, settings: Settings) -> list[Any]:
    """Chunks are as long as a row has room."""
    check(spec, settings.room)
    return [OBJECTIVES_VERSION, *settings.room]


def expanded(work: Work, items: list[Item], counts: Counter, said: Counter | None) -> list[Item]:
    sized = work.job.crossed
    return list(chunks(work.spec, items, work.vocabulary, work.settings.room, counts, sized))


def records(work: Work, items: list[Item], pool: None) -> Records:
    spec, settings, vocabulary = work.spec, work.settings, work.vocabulary
    how = (work.job.rendering, settings.data.render_seed, vocabulary.size, settings.room)
    encoded = [record(spec, item, *how) for item in items]
    return [rendered(spec, r, vocabulary) for r in encoded], encoded, items


def line(work: Work, item: Item) -> dict[str, Any]:
    """{"bytes"} of a chunk that is scored."""
    if not work.job.crossed:
        return {}
    seed, room = work.settings.data.render_seed, work.settings.room
    return {"bytes": target_bytes(work.spec, item, seed, room)}
