# SPDX-License-Identifier: Apache-2.0
"""Mixtures.

toy_train                    what the quickstart trains on: the toy suite but for what
                             toy/heldout.py names
toy_english                  its English tasks, without exemplars or chains of thought: short
                             answers, which tune a small pretrained model within minutes
toy_quick                    a third of it, with all that is held out, for quick variants
toy_few                      one task each of six of its clusters, where those are still too many
flan_mini                    six FLAN tasks of six clusters
flan_zs flan_fs              all FLAN tasks: without exemplars, half with four; …_no_nli: but for a
                             cluster, its
                             neighbours and its kin (one for every cluster)
flan_zsopt flan_zsnoopt      FLAN 2022's four parts: the wordings that list a task's options, and
                             those that list
flan_fsopt flan_fsnoopt      none; the same with exemplars. Tasks without such wordings are left
                             out, and told
open_mix                     open instructions and conversations of a folder (tasks/files.py,
                             tasks/dialog.py): what
                             the recipes of decoders train on until you name your own
flan2022                     its shares of FLAN, P3, Natural Instructions, chain of thought and
                             dialogue
                             (Longpre et al. 2023, arXiv:2301.13688); the parts are flan2022_flan,
                             flan2022_p3, …
"""

import importlib

import tasks.toy  # noqa: F401  registers the tasks
from itx.tasks.registry import TASKS, mixture
from itx.tasks.spec import holdout
from tasks import dialog, files
from tasks.from_tfds import FLAN_CLUSTERS
from tasks.toy import heldout

for cluster in FLAN_CLUSTERS:
    importlib.import_module(f"tasks.{cluster}")

TOY = [name for name, spec in TASKS.items() if spec.module.startswith("tasks.toy.")]
FEW = ["sum", "count_words", "who_more", "day_after", "thing_of", "reverse_words"]
SOME = [
    *(*FEW, *heldout.TASKS, "first_word", "second_word", "last_word", "ru_first_word"),
    *("remove_word", "word_of_kind", "label_by_rule", "total_together", "next_word", "en_to_ru"),
    *("entails", "ru_entails", "right_claim", "encode_words", "decode_numbers", "number_for"),
]
for name, among in {"toy_train": TOY, "toy_quick": SOME}.items():
    # a task without inverted or chain-of-thought templates gives its whole share to the plain
    # variant
    mixture(
        name,
        holdout(clusters=heldout.CLUSTERS, tasks=heldout.TASKS, among=among),
        variants={"zs": 0.6, "cot": 0.3, "inv": 0.1},
    )

mixture(
    "toy_english",
    holdout(
        clusters=heldout.CLUSTERS,
        tasks=heldout.TASKS,
        among=[name for name in TOY if TASKS[name].tags["language"] == "en"],
    ),
    variants={"zs": 1.0},
)

mixture("toy_few", FEW, variants={"zs": 1.0})

FLAN = [name for name, spec in TASKS.items() if spec.module.removeprefix("tasks.") in FLAN_CLUSTERS]
# FLAN's limits (arXiv:2109.01652, section 2.4): at most so many examples of a set, and a rate of at
# most so many
LIMITS = {"max_examples": 30_000, "maximum": 3_000}
KINDS = {
    "zs": {"zs": 1.0}, "fs": {"zs": 0.5, "fs4": 0.5}, "zsopt": {"zs:opt": 1.0}, "zsnoopt": {"zs:noopt": 1.0},
    "fsopt": {"fs4:opt": 1.0}, "fsnoopt": {"fs4:noopt": 1.0},
}  # fmt: skip
for kind, variants in KINDS.items():
    mixture(f"flan_{kind}", FLAN, variants=variants, partial=kind.endswith("opt"), **LIMITS)
for cluster in FLAN_CLUSTERS:
    for kind in ("zs", "fs"):
        mixture(
            f"flan_{kind}_no_{cluster}",
            holdout(clusters=[cluster], among=FLAN),
            variants=KINDS[kind],
            **LIMITS,
        )
mixture("flan_mini", ["rte", "copa", "sst2", "mrpc", "squad", "common_gen"], maximum=3_000)

mixture("open_mix", [*files.OPEN, *dialog.FILES], maximum=30_000)

mixture(
    "flan2022_flan", {f"flan_{kind}": 0.25 for kind in ("zsopt", "zsnoopt", "fsopt", "fsnoopt")}
)
mixture("flan2022_p3", ["p3.*"], **LIMITS)
mixture("flan2022_ni", ["ni.*"], **LIMITS)
mixture(
    "flan2022_cot", ["gsm8k:cot", *(f"flan_cot.{name}:cot" for name in files.FLAN_COT)], **LIMITS
)
mixture("flan2022_dialog", list(dialog.FILES), **LIMITS)
mixture(
    "flan2022",
    {
        "flan2022_flan": 0.40,
        "flan2022_p3": 0.32,
        "flan2022_ni": 0.20,
        "flan2022_cot": 0.05,
        "flan2022_dialog": 0.03,
    },
)
