# SPDX-License-Identifier: Apache-2.0
"""Sentiment of reviews and short messages."""

import re
from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

SENTIMENT = {**of_cluster("sentiment"), "metrics": ("accuracy",)}
BOTH = ("negative", "positive")
HELDOUT = to_answer(
    "A reader wonders how the writer felt.\n{text}\nTell them:\n{options}",
    "{options}\nMood of the lines that follow: {text}",
)


def review_fields(example: dict) -> Any:
    """IMDB's rows hold HTML line breaks, Yelp's the two characters `\\n`."""
    text = re.sub(r"(?:<br />|\\n)+", "\n", example["text"])
    return checked({"text": text, "answer": example["label"]})


instruction_task(
    "imdb", **SENTIMENT, origin=origins("imdb"), options=BOTH, fields=review_fields, heldout_templates=HELDOUT,
    source=tfds("imdb_reviews/plain_text:1.0.0", ("train", "test")),
    templates=to_answer(
        "{text}\nIs this review of a film positive or negative?\n{options}",
        "What does the reviewer think of the film?\n{text}\n{options}",
        "Film review: {text}\nSentiment:\n{options}",
        "Classify the review by its sentiment.\n{options}\n\n{text}",
        "Did the person who wrote this like the film? Choose a label.\n{text}\n{options}",
        "Is the following film review positive or negative?\n{text}",
        "{text}\nIn one word, positive or negative, this review is",
    ),
)  # fmt: skip
instruction_task(
    "sst2", **SENTIMENT, origin=origins("sst2"), options=BOTH, fields=plain(text="sentence"), heldout_templates=HELDOUT,
    source=tfds("glue/sst2:2.0.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{text}\nIs the sentiment of this phrase positive or negative?\n{options}",
        "A critic writes: {text}\nIs that praise or blame?\n{options}",
        "Phrase from a review: {text}\nSentiment:\n{options}",
        "{options}\nLabel the phrase.\n{text}",
        "How does the following sound? {text}\n{options}",
        "Would you call this positive or negative? {text}",
        "{text}\nAnswer positive or negative.",
    ),
)  # fmt: skip


def sentiment140_fields(example: dict) -> Any:
    """Polarity 0, 2 or 4; the training part has no neutral messages."""
    return checked({"text": example["text"], "answer": example["polarity"] // 2})


instruction_task(
    "sentiment140", **SENTIMENT, origin=origins("sentiment140"), options=("negative", "neutral", "positive"),
    source=tfds("sentiment140:1.0.0", ("train", "test")), fields=sentiment140_fields, heldout_templates=HELDOUT,
    templates=to_answer(
        "{text}\nWhat is the sentiment of this tweet?\n{options}",
        "Tweet: {text}\nSentiment:\n{options}",
        "How does the author of the tweet feel?\n{text}\n{options}",
        "{options}\nWhich label does the message get?\n{text}",
        "Someone posted this: {text}\nSort it by feeling.\n{options}",
        "Is this tweet negative, neutral or positive?\n{text}",
        "{text}\nReply negative, neutral or positive.",
    ),
)  # fmt: skip
instruction_task(
    "yelp_polarity", **SENTIMENT, origin=origins("yelp_polarity"), options=BOTH, fields=review_fields,
    source=tfds("yelp_polarity_reviews:0.2.0", ("train", "test")), heldout_templates=HELDOUT,
    templates=to_answer(
        "{text}\nIs this review of a business positive or negative?\n{options}",
        "A customer writes: {text}\nAre they satisfied?\n{options}",
        "Customer review: {text}\nSentiment:\n{options}",
        "{options}\nSort this review.\n{text}",
        "Judge the opinion of the customer.\n{text}\n{options}",
        "Is the customer's review positive or negative?\n{text}",
        "{text}\nThis opinion, positive or negative:",
    ),
)  # fmt: skip
