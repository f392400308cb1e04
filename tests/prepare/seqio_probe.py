# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own (SeqIO and TensorFlow stay out of the tests' process): prints JSON
facts.

python -m tests.prepare.seqio_probe VOCABULARY TOKENIZER_JSON NAME=VOCABULARY…    tokens of tasks
                                                                                  through
        seqio.Task.get_dataset, each under its vocabulary, and a task in SeqIO's own style
"""

import json
import sys
import tempfile

import tensorflow as tf

import itx.tasks
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.prepare import foreign, hits, seqio_bridge
from itx.tasks import registry
from tests import sample_tasks  # noqa: F401  (registers)
from tests.data.test_vocabulary import TEXTS


def register_native(vocabulary_file: str) -> None:
    """`native`: the task sample_first's first template, written with SeqIO's own preprocessors and
    tokeniser."""
    import seqio

    vocabulary = seqio.SentencePieceVocabulary(vocabulary_file)
    spec = registry.task("sample_first")
    items = list(seqio_bridge.SpecSource(spec, "", 0).items("train"))
    rows = {
        "words": [i.values["words"] for i in items],
        "answer": [i.values["answer"] for i in items],
    }

    def dataset(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(rows)

    @seqio.map_over_dataset
    def prompt(e):
        return {
            "inputs": tf.strings.join(["Give the first word: ", e["words"]]),
            "targets": e["answer"],
        }

    seqio.TaskRegistry.add(
        "native",
        source=seqio.FunctionDataSource(
            dataset, splits=["train"], num_input_examples={"train": len(items)}
        ),
        preprocessors=[prompt, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            k: seqio.Feature(vocabulary, add_eos=k == "targets") for k in ("inputs", "targets")
        },
    )


def tokens(name: str) -> list:
    """[[example id, inputs, targets]]; a task in SeqIO's own style has no ids."""
    task = seqio_bridge.seqio.get_mixture_or_task(name)
    rows = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    return [[e.get("id", b"").decode(), e["inputs"].tolist(), e["targets"].tolist()] for e in rows]


def converted(name: str, architecture: str, lengths: dict[str, int], n: int) -> list[dict]:
    """The first examples of a task as SeqIO's own converter lays them out, a row each."""
    seqio = seqio_bridge.seqio
    task = seqio.get_mixture_or_task(name)
    ds = task.get_dataset(None, "train", shuffle=False).take(n)
    if architecture == "decoder":
        converter = seqio.PrefixLMFeatureConverter(pack=False)
    else:  # T5's tasks end their inputs in EOS, ours leave it to the layout
        converter = seqio.EncDecFeatureConverter(pack=False)
        eos = task.output_features["targets"].vocabulary.eos_id
        ds = ds.map(lambda e: {**e, "inputs": tf.concat([e["inputs"], [eos]], 0)})
    ds = ds.map(lambda e: {k: e[k] for k in ("inputs", "targets")})
    return [
        {k: v.tolist() for k, v in e.items()} for e in converter(ds, lengths).as_numpy_iterator()
    ]


def other_vocabularies(file: str) -> dict:
    """A tokenizer.json and bytes as SeqIO vocabularies: ids by Python and by TensorFlow, text of
    them, a task's tokens."""
    seqio, out = seqio_bridge.seqio, {}
    found = {
        "tokenizer": seqio_bridge.TokenizerVocabulary(file),
        "bytes": seqio.ByteVocabulary(extra_ids=125),
    }
    for name, vocabulary in found.items():
        ids = [vocabulary.encode(t) for t in TEXTS]
        out[name] = {
            "ids": ids, "tf": [vocabulary.encode_tf(tf.constant(t)).numpy().tolist() for t in TEXTS],
            "decoded": [vocabulary.decode(i) for i in ids],
            "decoded_tf": [vocabulary.decode_tf(tf.constant(i, tf.int32)).numpy().decode() for i in ids],
            "size": vocabulary.vocab_size,
        }  # fmt: skip
    task = itx.tasks.get("sample_second", found["tokenizer"])
    assert task.output_features["targets"].vocabulary == seqio_bridge.TokenizerVocabulary(file)
    assert task.output_features["targets"].vocabulary != found["bytes"]
    first = next(iter(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()))
    out["task"] = [first["inputs"].tolist(), first["targets"].tolist()]
    bytewise = itx.tasks.get("sample_second:inv", found["bytes"])
    assert bytewise.output_features["targets"].vocabulary == found["bytes"]
    kept = [
        foreign.vocabulary_of({"t": t}, tempfile.mkdtemp(), hits.refuse) for t in (task, bytewise)
    ]
    out["kept"] = [Vocabulary(k).hash for k in kept]
    return out


def main() -> None:
    vocabulary, tokenizer, *words = sys.argv[1:]
    names = dict(word.split("=") for word in words)
    for name, file in names.items():
        itx.tasks.get(name, file, fewshot_tokens=128)
    register_native(vocabulary)
    mixture = itx.tasks.get("sample_held", vocabulary, fewshot_tokens=128)
    with_sentinels = seqio_bridge.seqio.SentencePieceVocabulary(vocabulary, extra_ids=10)
    got = itx.tasks.get("sample_last:fs2", with_sentinels)
    assert seqio_bridge.seqio.get_mixture_or_task("sample_last:fs2") is got
    assert got.output_features["targets"].vocabulary == with_sentinels
    assert itx.tasks.get("sample_held", vocabulary) is mixture
    try:
        itx.tasks.get("sample_last:fs2", vocabulary)
        refused = ""
    except UserError as e:
        refused = str(e)
    lengths = {"inputs": 40, "targets": 24}
    registered = [n for n in seqio_bridge.seqio.TaskRegistry.names() if n.startswith("sample")]
    print(json.dumps({
        "converted": {a: converted("sample_first", a, lengths, 60) for a in ("decoder", "encoder_decoder")},
        "tokens": {n: tokens(n) for n in [*names, "native"]},
        "other": other_vocabularies(tokenizer), "refused": refused, "rates": seqio_bridge.rates(mixture),
        "registered": registered,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
