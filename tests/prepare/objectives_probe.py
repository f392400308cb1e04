# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own (TensorFlow stays out of the tests' process): prints JSON facts.

python -m tests.prepare.objectives_probe MODEL WITH_SENTINELS NAME…    is the second file what SeqIO
                                                                       makes of the first;
                                                                     tokens of tasks through
                                                                     seqio.Task.get_dataset
"""

import json
import sys
from pathlib import Path

import itx.tasks
from itx.errors import UserError
from itx.prepare import seqio_bridge
from tests.prepare.seqio_probe import tokens
from tests.text_tasks import ROOM, SEEDS


def main() -> None:
    import tensorflow as tf

    model, file, *names = sys.argv[1:]
    with_sentinels = seqio_bridge.seqio.SentencePieceVocabulary(model, extra_ids=100)
    try:
        itx.tasks.get("text_span_corruption#9", model, room=ROOM)
        refused = ""
    except UserError as e:
        refused = str(e)
    for name in names:
        itx.tasks.get(name, with_sentinels, room=ROOM)
    signed = [[s - 2**64 if s >= 2**63 else s for s in seed] for seed in SEEDS]
    print(json.dumps({
        "same_bytes": with_sentinels.sp_model == Path(file).read_bytes(), "size": with_sentinels.vocab_size,
        "ids": {p: with_sentinels.tokenizer.PieceToId(p) for p in ("▁<extra_id_0>", "▁<extra_id_99>")},
        "refused": refused, "tokens": {n: tokens(n) for n in names},
        "shuffled": [seqio_bridge.seqio.utils.stateless_shuffle(tf.range(1500), s).numpy().tolist() for s in signed],
        "rates": seqio_bridge.rates(itx.tasks.get("replay_decoder", with_sentinels, room=ROOM)),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
