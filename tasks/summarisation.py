# SPDX-License-Identifier: Apache-2.0
"""Summaries, headlines and subject lines."""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

SUMMARY = {**of_cluster("summarisation"), "metrics": ("rouge_l", "token_f1")}
ALL = ("train", "validation", "test")
NEWS = to_answer(
    "{text}\n\nSummarise the article.",
    "Article: {text}\nSummary:",
    "Write a summary of this news article.\n{text}",
    "{text}\n\nWhat are the main points?",
    "Shorten the following report to what matters most.\n{text}",
    "Read this and say in brief what happened.\n\n{text}",
)
HEADLINE = to_answer(
    "{text}\nWrite a headline for this.",
    "Text: {text}\nHeadline:",
    "Sum up the following in one line.\n{text}",
    "{text}\n\nWhich short title would a newspaper give it?",
    "Find a heading for the passage below.\n{text}",
    "In a single short phrase, what is this about? {text}",
)
HELDOUT = to_answer(
    "A busy colleague asks what these paragraphs boil down to.\n{text}\nYou reply:",
    "{text}\nTL;DR",
)

# task -> (TFDS name, splits, the text's feature, the summary's, templates)
SETS = {
    "cnn_dailymail": ("cnn_dailymail:3.4.0", ALL, "article", "highlights", NEWS),
    "multi_news": ("multi_news:2.1.0", ALL, "document", "summary", NEWS),
    "xsum": ("xsum:1.1.0", ALL, "document", "summary", NEWS),
    "gigaword": ("gigaword:1.2.0", ALL, "document", "summary", HEADLINE),
    "ag_news": ("ag_news_subset:1.0.0", ("train", "test"), "description", "title", HEADLINE),
}
for name, (tfds_name, splits, text, summary, templates) in SETS.items():
    instruction_task(
        name, **SUMMARY, origin=origins(name), source=tfds(tfds_name, splits), fields=plain(summary, text=text),
        templates=templates, heldout_templates=HELDOUT,
    )  # fmt: skip

instruction_task(
    "samsum", **SUMMARY, origin=origins("samsum"), source=tfds("samsum:1.0.0", ALL),
    fields=plain("summary", text="dialogue"), heldout_templates=HELDOUT,
    templates=to_answer(
        "{text}\n\nSummarise the conversation.",
        "Dialogue:\n{text}\nSummary:",
        "What did these people talk about?\n{text}",
        "Write down in short what was agreed or said.\n\n{text}",
        "{text}\n\nTell somebody who was not there what happened in this chat.",
        "Condense the following messages.\n{text}",
    ),
)  # fmt: skip
instruction_task(
    "aeslc", **SUMMARY, origin=origins("aeslc"), source=tfds("aeslc:1.0.0", ALL),
    fields=plain("subject_line", text="email_body"), heldout_templates=HELDOUT,
    templates=to_answer(
        "{text}\n\nWrite a subject line for this email.",
        "Email: {text}\nSubject:",
        "What is this email about? Reply as its subject line would.\n{text}",
        "Find a fitting subject for the message.\n\n{text}",
        "{text}\n\nThe subject of the email above:",
        "Which few words would stand over this email?\n{text}",
    ),
)  # fmt: skip


def critics_fields(example: dict) -> Any:
    """Up to ten critics on one film, and the consensus."""
    lines = [f"- {v.strip()}" for v in example["_critics"]["value"] if v.strip()][:10]
    return checked(
        {
            "film": example["_movie_name"],
            "text": "\n".join(lines),
            "answer": example["_critic_consensus"],
        }
    )


instruction_task(
    "film_critics", **SUMMARY, origin=origins("rotten_tomatoes"), fields=critics_fields, content=("film", "text"),
    source=tfds("opinion_abstracts/rotten_tomatoes:1.0.0", ("train",)),
    templates=to_answer(
        "Critics on {film}:\n{text}\nWhat do they agree on?",
        "{text}\n\nSum up these opinions of {film} in a sentence.",
        "Reviews of {film}\n{text}\nConsensus:",
        "What is the general view of {film}, judging by these quotes?\n{text}",
        "Write one sentence that speaks for all of these critics.\n{text}",
        "{text}\nFrom these reviews, write a short verdict on {film}.",
    ),
    heldout_templates=HELDOUT,
)  # fmt: skip
