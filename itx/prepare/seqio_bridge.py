# SPDX-License-Identifier: Apache-2.0
"""Our specs as genuine seqio Tasks and Mixtures, and the way back. Only this file and foreign.py
import SeqIO.

Task      source yields {id, raw}; one `tf.numpy_function` map calls the record function that the
          build calls directly; then cache placeholder, then EOS. Same tokens either way (tested).
Mixture   rates are SeqIO's own (`mixing_rate_num_examples` with its cap and temperature), read back
          by `rates`; any Mixture or Task that a user registered straight in SeqIO is found the
          same way.
"""

import atexit
import functools
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import absl.logging
import numpy as np
import seqio
import tensorflow as tf

from itx.config import DataConfig
from itx.data.cache import prompt_ids
from itx.data.vocabulary import Bytes, TokenizerJson, Vocabulary
from itx.errors import UserError, did_you_mean
from itx.prepare import examples, hits, objectives, sources
from itx.prepare.jobs import records_of
from itx.prepare.types import Item, Job, Room, Settings, Work
from itx.prepare.vocab import keep_bytes, keep_given, keep_vocabulary
from itx.tasks import names, registry, resolve
from itx.tasks.spec import SPLITS, MixtureSpec, TaskSpec
from itx.text_format import chat

# SeqIO hides nothing itself: keep TensorFlow off the accelerator.
tf.config.set_visible_devices([], "GPU")
# It warns that rates come from counts; ours are exact.
absl.logging.set_verbosity(absl.logging.ERROR)


class SpecSource(seqio.DataSource):
    """A task's examples as {id, raw}, raw a JSON text of the item. `counted` holds what the build
    counted."""

    counted: dict[tuple[str, str], int] = {}

    def __init__(
        self,
        spec: TaskSpec,
        root: str,
        suite_seed: int,
        several: Callable[[Iterable[Item]], Iterable[Item]] = iter,
    ):
        """several: makes of a split's items those that become examples (chunks of documents)."""
        self.spec, self.root, self.suite_seed, self.several = spec, root, suite_seed, several
        splits = [s for s in SPLITS if sources.source_splits(spec.source, s)]
        super().__init__(splits=splits, caching_permitted=True)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def num_input_examples(self, split: str) -> int:
        key = (self.spec.name, split)
        if key not in self.counted:
            self.counted[key] = sum(1 for _ in self.items(split))
        return self.counted[key]

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def items(self, split: str) -> Iterator[Item]:
        items = examples.items(self.spec, split, self.root, self.suite_seed, Counter())
        yield from self.several(items)

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **kwargs):
        del shard_info, kwargs  # SeqIO shards a source of one shard by itself

        def rows():
            for i in self.items(split):
                raw = json.dumps([i.id, i.values, i.content, i.hash], ensure_ascii=False)
                yield {"id": i.id, "raw": raw}

        signature = {k: tf.TensorSpec([], tf.string) for k in ("id", "raw")}
        ds = tf.data.Dataset.from_generator(rows, output_signature=signature)
        return ds.shuffle(10_000, seed=seed) if shuffle else ds


def get(
    name: str,
    vocabulary: seqio.Vocabulary | str | Path,
    root: str = "",
    suite_seed: int = 0,
    render_seed: int = 0,
    fewshot_tokens: int = 0,
    chat_template: str = chat.PLAIN,
    room: tuple[str, int, int] = Room(),
) -> seqio.Task | seqio.Mixture:
    """itx.tasks.get: the seqio Task or Mixture behind one of our names."""
    if isinstance(vocabulary, seqio.Vocabulary) and (file := kept(vocabulary, _private_folder())):
        _GIVEN.setdefault(str(file), vocabulary)
        vocabulary = file
    architecture, sequence_length, target_length = room
    data_config = DataConfig(
        root=root,
        suite_seed=suite_seed,
        render_seed=render_seed,
        fewshot_tokens=fewshot_tokens or sys.maxsize,  # 0: no limit
        sequence_length=sequence_length,
        target_length=target_length,
    )
    return registered(name, Settings(data_config, str(vocabulary), chat_template, architecture))


@functools.cache
def _private_folder() -> str:
    """A folder of this process alone: under a name that others can guess, they could leave a file
    of their own."""
    folder = tempfile.mkdtemp(prefix="itx-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def registered(name: str, settings: Settings) -> seqio.Task | seqio.Mixture:
    """The seqio Mixture or Task of a name, registered on first use."""
    if name in registry.MIXTURES:
        return register_mixture(registry.MIXTURES[name], settings)
    return register(name, settings)


def register(name: str, settings: Settings) -> seqio.Task:
    """The seqio Task of a variant name, registered on first use; a name holds one vocabulary."""
    d, spec = settings.data, settings.task(name)
    job = Job(name, "train", rendering=names.parse(name).rendering)
    vocabulary = _vocabulary(settings.vocab)
    if name in seqio.TaskRegistry.names():
        task = seqio.TaskRegistry.get(name)
        if task.output_features["targets"].vocabulary != vocabulary:
            raise UserError(f"{name!r} is registered in SeqIO with another vocabulary")
        return task
    encoder = Vocabulary(settings.vocab)
    work, several = Work(job, settings, encoder), iter
    if spec.kind == "text":
        # Checked here, not from within tf.data.
        objectives.check(spec, settings.room, objectives.sentinels(encoder))
        several = functools.partial(objectives.chunks, spec, vocabulary=encoder, room=settings.room)
    source = SpecSource(spec, d.root, d.suite_seed, several)

    def record(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
        _, (pieces,), _ = records_of(work, [Item(*json.loads(raw))])
        *before, (target, _) = pieces
        prompt = prompt_ids(before, encoder.eos_id, "decoder")
        return np.array(prompt, np.int32), np.array(target, np.int32)

    @seqio.map_over_dataset
    def tokenise(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = tf.numpy_function(record, [example["raw"]], (tf.int32, tf.int32), stateful=False)
        inputs, targets = (tf.ensure_shape(x, [None]) for x in ids)
        return {"id": example["id"], "inputs": inputs, "targets": targets}

    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32),
        "targets": seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32),
    }
    steps = [tokenise, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos_after_trim]
    return seqio.TaskRegistry.add(
        name, source=source, preprocessors=steps, output_features=features
    )


_GIVEN: dict[str, seqio.Vocabulary] = {}  # objects that `get` was given, by the file of each


class TokenizerVocabulary(seqio.Vocabulary):
    """Hugging Face's tokenizer.json as a SeqIO vocabulary."""

    def __init__(self, file: str):
        self.vocabulary = Vocabulary(file)
        super().__init__()

    @property
    def bos_id(self) -> int | None:
        return self.vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        return self.vocabulary.eos_id

    @property
    def unk_id(self) -> int | None:
        return self.vocabulary.unk_id if self.vocabulary.unk_id >= 0 else None

    @property
    def pad_id(self) -> int:
        return self.vocabulary.pad_id

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def ids(text: np.ndarray | bytes) -> np.ndarray:
            return np.array(self._encode(np.asarray(text, object).item().decode()), np.int32)

        return tf.ensure_shape(tf.numpy_function(ids, [s], tf.int32, stateful=False), [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(
            lambda x: self._decode(x.tolist()).encode(), [ids], tf.string, stateful=False
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenizerVocabulary) and other.vocabulary.hash == self.vocabulary.hash
        )


@functools.cache
def _vocabulary(file: str) -> seqio.Vocabulary:
    if file in _GIVEN:
        return _GIVEN[file]
    model = Vocabulary(file).model
    if isinstance(model, Bytes):
        return seqio.ByteVocabulary(model.extra_ids)
    if isinstance(model, TokenizerJson):
        return TokenizerVocabulary(file)
    return seqio.SentencePieceVocabulary(file)


def register_mixture(spec: MixtureSpec, settings: Settings) -> seqio.Mixture:
    """A MixtureSpec as a seqio Mixture of its variants (nested mixtures stay mixtures)."""
    if spec.name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(spec.name)
    parts = []
    for name, share in resolve.members(spec, settings.data.root).items():
        registered(name, settings)
        rate = 1.0 if share is None else share  # None: of a nested mixture
        if name not in registry.MIXTURES and not isinstance(spec.members, dict):
            rate = _proportional(spec, share)
        parts.append((name, rate))
    return seqio.MixtureRegistry.add(spec.name, parts)


def _proportional(spec: MixtureSpec, share: float) -> Callable[[seqio.Task], float]:
    """SeqIO's own rate of a task, whose examples are at most the spec's."""
    caps = [spec.maximum, spec.max_examples and spec.max_examples * spec.scale]
    rate = functools.partial(
        seqio.mixing_rate_num_examples,
        maximum=min(filter(None, caps), default=None),
        temperature=spec.temperature,
        scale=spec.scale,
    )
    return lambda task: share * rate(task)


def known() -> list[str]:
    """The names in SeqIO's registries."""
    return [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]


def find(name: str) -> seqio.Task | seqio.Mixture:
    """A Task or Mixture by name from SeqIO's registries."""
    if name not in known():
        near = did_you_mean(name, [*known(), *registry.MIXTURES, *registry.TASKS])
        raise UserError(f"unknown mixture or task {name!r}{near}")
    return seqio.get_mixture_or_task(name)


def tasks_of(mixture_or_task: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
    """The tasks of a mixture, nested ones opened, or the task itself."""
    if isinstance(mixture_or_task, seqio.Task):
        return [mixture_or_task]
    return list(mixture_or_task.tasks)


def rates(mixture_or_task: seqio.Task | seqio.Mixture) -> dict[str, float]:
    """Task name -> share of the examples, as SeqIO mixes them; sums to 1."""
    where = f"mixture {mixture_or_task.name!r}"
    if isinstance(mixture_or_task, seqio.Task):
        return {mixture_or_task.name: 1.0}
    by_name = {}
    for t in mixture_or_task.tasks:
        try:
            by_name[t.name] = float(mixture_or_task.get_rate(t))
        except (TypeError, ValueError, AssertionError) as e:  # its source may not know its size
            raise UserError(f"{where}: the rate of {t.name!r} is unknown: {e}") from e
    total = sum(by_name.values())
    if total <= 0:
        raise UserError(f"{where} has no examples")
    return {n: r / total for n, r in sorted(by_name.items())}


# the kinds of vocabulary that `kept` makes a file of
VOCABULARIES = (TokenizerVocabulary, seqio.ByteVocabulary, seqio.SentencePieceVocabulary)


def kept(
    vocabulary: seqio.Vocabulary, cache_dir: str, mend: hits.Mend = hits.refuse
) -> Path | None:
    """The file of a SeqIO vocabulary (for a SentencePiece model with the sentinels that it adds);
    None for other kinds."""
    if isinstance(vocabulary, TokenizerVocabulary):
        return keep_given(vocabulary.vocabulary.file, "", cache_dir, mend=mend)
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return keep_bytes(vocabulary.extra_ids, cache_dir, mend)
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return keep_vocabulary(vocabulary.sp_model, cache_dir, mend)
    return None
