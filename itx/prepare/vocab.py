# SPDX-License-Identifier: Apache-2.0
"""Train a SentencePiece vocabulary on a mixture's training splits (byte fallback, digits split).

It is an artefact of its own: its key is the tasks' names and versions and the size, so an edited
template does not retrain it; and its texts depend on the tasks alone, not on a run's variants or
seeds. One thread, hence the same file from the same texts.
"""

import hashlib
import io
import itertools
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

from itx import hashing, movement, storage
from itx.data import verify
from itx.data.vocabulary import (
    BESIDE,
    BYTE_EXTRA_IDS,
    BYTES,
    FILES,
    Bytes,
    TokenizerJson,
    Vocabulary,
    fitted,
    model_proto,
    with_sentinels,
)
from itx.errors import UserError
from itx.prepare import examples, hits, kinds
from itx.tasks import registry

VOCAB_VERSION = 3
EXAMPLES_PER_TASK = 400
MIN_COMMON = 5  # times that a common word occurs
# A newline becomes a private-use piece and a space, so that a word is the same piece after a
# newline as after a space; decoding undoes it. (A user-defined "\n" would bypass normalisation.)
_NEWLINE = "A\tE000 20\n"
_NEWLINE_BACK = "E000 20\tA\n"
SENTENCEPIECE = "sentencepiece.model"


def keep_given(
    name: str, root: str, cache_dir: str, rows: int = 0, mend: hits.Mend = hits.refuse
) -> Path:
    """The copy in the cache of what `data.vocab` names: a file, here or under data.root, or
    "bytes".

    With a tokenizer of Hugging Face's goes all that belongs to it: its special tokens, and what an
    export hands on.

    Args:
        rows: of the embedding, where they are known; the token for images beyond them is left out.
    """
    if name == BYTES:
        return keep_bytes(BYTE_EXTRA_IDS, cache_dir, mend)
    file = storage.given_file(name, root, "data.vocab")
    known, main = Vocabulary(file), SENTENCEPIECE
    if isinstance(known.model, Bytes):
        return keep_bytes(known.model.extra_ids, cache_dir, mend)
    data = file.read_bytes()
    if isinstance(known.model, TokenizerJson):
        main, data = FILES[0], fitted(data, rows) if rows else data
    return keep_vocabulary(data, cache_dir, mend, _beside(file), main, known.hash)


def keep_bytes(extra_ids: int, cache_dir: str, mend: hits.Mend = hits.refuse) -> Path:
    """The vocabulary of bytes, as a file in the cache."""
    data = (json.dumps({"extra_ids": extra_ids}, indent=1) + "\n").encode()
    folder = Path(cache_dir) / "vocab" / f"{BYTES}{extra_ids}"
    return _written(folder, {"bytes.json": data}, mend) / "bytes.json"


def keep_vocabulary(
    data: bytes,
    cache_dir: str,
    mend: hits.Mend,
    beside: dict[str, bytes] | None = None,
    name: str = SENTENCEPIECE,
    known: str = "",
) -> Path:
    """A vocabulary's copy in the cache, with what else its tokenizer consists of, under its hash
    (`known`: as `Vocabulary` has it), or that of all its files where there are several."""
    known = known or hashing.digest(data)
    key = hashing.digest(known, data, *beside.values()) if beside else known
    return _written(Path(cache_dir) / "vocab" / key, {name: data, **(beside or {})}, mend) / name


def _written(folder: Path, files: dict[str, bytes], mend: hits.Mend) -> Path:
    """The folder with just these files: written if it is not there, mended if it holds something
    else."""
    for name, content in files.items() if folder.is_dir() else ():
        file = folder / name
        if not file.is_file() or file.read_bytes() != content:
            told = f"{file} is damaged: it is not what was written; {verify.REBUILD}"
            mend(verify.Damaged(told), folder)
            break
    if not folder.is_dir():
        with storage.whole_folder(folder) as part:
            for name, content in files.items():
                (part / name).write_bytes(content)
    return folder


def _beside(file: Path) -> dict[str, bytes]:
    return {n: p.read_bytes() for n in BESIDE if (p := file.parent / n).is_file()}


def keep_with_sentinels(file: Path | str, cache_dir: str, mend: hits.Mend = hits.refuse) -> Path:
    """The vocabulary of a file with sentinels behind its pieces, in the cache."""
    file = Path(file)
    return keep_vocabulary(with_sentinels(file.read_bytes()), cache_dir, mend, _beside(file))


def vocab_key(members: list[str], size: int, root: str, suite_seed: int) -> str:
    tasks = sorted({f"{(t := registry.task(m, root)).name}.{t.version}" for m in members})
    return f"{hashing.draw(VOCAB_VERSION, size, suite_seed, *tasks):016x}"


def texts(members: list[str], root: str, suite_seed: int) -> list[str]:
    """Prompts and targets of each task's first training examples, in a fixed order; then each
    common word.

    SentencePiece seeds its pieces with strings that occur in several surroundings. In templated
    text a word often has one neighbour only ("What" before "is") and would be cut up, so every word
    that occurs MIN_COMMON times stands once more by itself (toy suite: 23 % of words cut up
    without, 0.1 % with).
    """
    written = []
    for name in sorted({registry.task(m, root).name for m in members}):
        spec = registry.task(name, root)
        items = examples.items(spec, "train", root, suite_seed, Counter(), skip_bad=True)
        first = list(itertools.islice(items, EXAMPLES_PER_TASK))
        written += kinds.of(spec).vocabulary_texts(spec, first)
    counts = Counter(word for text in written for word in re.findall(r"[^\W\d_]+", text))
    common = [word for word in sorted(counts) if counts[word] >= MIN_COMMON]
    return written + [f"{word}. {word}," for word in common]


def train(
    members: list[str],
    size: int,
    root: str,
    suite_seed: int,
    cache_dir: str,
    mend: hits.Mend = hits.refuse,
) -> Path:
    """The vocabulary's file under the cache, trained if it is not there."""
    folder = Path(cache_dir) / "vocab" / vocab_key(members, size, root, suite_seed)
    file = folder / SENTENCEPIECE
    digest = folder.with_suffix(".sha256")  # beside the folder, which runs copy
    if file.exists() and digest.is_file():
        if digest.read_text("utf-8") != hashing.file_sha256(file):
            told = f"{file} is damaged: it is not what was trained; {verify.REBUILD}"
            mend(verify.Damaged(told), folder)
    if file.exists():
        return file
    data = _trained(texts(members, root, suite_seed), size)
    # The digest first: a kill in between leaves nothing that a later model contradicts.
    with storage.whole_file(digest) as part:
        part.write_text(hashlib.sha256(data).hexdigest(), encoding="utf-8")
    with storage.whole_file(file) as part:
        part.write_bytes(data)
    return file


def _trained(sentences: list[str], size: int) -> bytes:
    """A SentencePiece model of so many pieces."""
    import sentencepiece

    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = {}
        for name, rule in (("normalization", _NEWLINE), ("denormalization", _NEWLINE_BACK)):
            file = Path(folder, name)
            file.write_text(rule)
            rules[f"{name}_rule_tsv"] = str(file)
        try:
            with movement.alive(f"vocabulary: training {size:,} pieces"):
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(sentences),
                    model_writer=model,
                    vocab_size=size,
                    model_type="unigram",
                    num_threads=1,
                    minloglevel=2,
                    pad_id=0,
                    eos_id=1,
                    unk_id=2,
                    bos_id=-1,
                    byte_fallback=True,
                    split_digits=True,
                    character_coverage=1.0,
                    hard_vocab_limit=False,
                    required_chars="\ue000",
                    remove_extra_whitespaces=False,
                    input_sentence_size=0,
                    shuffle_input_sentence=False,
                    **rules,
                )
        except RuntimeError as e:
            raise UserError(f"data.vocab_size={size}: {str(e).rsplit(']', 1)[-1].strip()}") from e
    return _without_paths(model.getvalue())


def _without_paths(model: bytes) -> bytes:
    """The model without the names of the temporary files its rules came from, or it would never be
    the same twice."""
    proto = model_proto(model)
    for spec in (proto.normalizer_spec, proto.denormalizer_spec):
        spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)
