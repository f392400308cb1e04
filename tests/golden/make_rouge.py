# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/rouge.json: what rouge_score gives for texts that were drawn, with and without
stems.

uv run --with rouge_score==0.1.2 tests/golden/make_rouge.py
"""

import json
import random
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

KINDS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
WORDS = (
    "the cat runs running ran dogs dying skies flies happily nation national a an ponies caresses it's 3.5 on in, mats "
    "lying killed kills gunman general generalization relational conditional sat"
).split()
TEXTS = 30

draw = random.Random(5)
out = []
for i in range(TEXTS):
    lines = [draw.randint(1, 4) for _ in range(2)]
    reference, answer = (
        "\n".join(" ".join(draw.choices(WORDS, k=draw.randint(1, 10))) for _ in range(n))
        for n in lines
    )
    stem = ("", "english")[i % 2]
    scores = RougeScorer(KINDS, use_stemmer=bool(stem)).score(reference, answer)
    found = {k: round(scores[k].fmeasure, 12) for k in KINDS}
    out.append({"reference": reference, "answer": answer, "stem": stem, **found})
file = Path(__file__).parent / "rouge.json"
file.write_text("[\n" + ",\n".join(map(json.dumps, out)) + "\n]\n", encoding="utf-8")
