# SPDX-License-Identifier: Apache-2.0
"""What a task module imports: `from itx.tasks import instruction_task, jsonl, mixture`. No SeqIO,
no TensorFlow, no JAX.

spec.py has what is written about a task, registry.py what registers it, resolve.py what mixtures
train on, names.py the grammar of names.
"""

from typing import Any

from itx.tasks.chat import first_user_turn, openai_messages, sharegpt_messages
from itx.tasks.registry import chat_task, instruction_task, mixture, text_task
from itx.tasks.spec import (
    CoT,
    Skip,
    csv,
    function,
    halved,
    hf_dataset,
    holdout,
    json,
    jsonl,
    parquet,
    tfds,
    tfrecord,
    tsv,
)
from itx.tasks.templates import paraphrases


def get(name: str, vocabulary: Any, **how: Any) -> Any:
    """The seqio Task of a variant name, or Mixture of a mixture's, registered in SeqIO on first
    use.

    Afterwards `seqio.get_mixture_or_task(name)` finds it too. Imports SeqIO.

    Args:
        vocabulary: a SentencePiece model file, or a seqio.SentencePieceVocabulary. A name holds
            one.
        how: root, suite_seed, render_seed, fewshot_tokens, as in a run's `data` settings (but for
            fewshot_tokens=0: no limit); for plain text `room`, a row's (architecture,
            sequence_length, target_length).
    """
    from itx.prepare import seqio_bridge

    return seqio_bridge.get(name, vocabulary, **how)
