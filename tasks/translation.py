# SPDX-License-Identifier: Apache-2.0
"""Translation out of English; `:inv` is the way back."""

from collections.abc import Callable
from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from tasks.from_tfds import checked, of_cluster, origins, to_answer

LANGUAGES = {"de": "German", "es": "Spanish", "fr": "French", "ro": "Romanian", "ru": "Russian"}


def from_english(code: str) -> Callable[[dict], Any]:
    """`fields`: text, language, answer."""

    def fields(example: dict) -> Any:
        return checked({"text": example["en"], "language": LANGUAGES[code], "answer": example[code]})

    return fields


# task -> (TFDS name, splits, the other language, origin)
LABELLED = ("train", "validation", "test")
PAIRS = {
    "wmt14_en_fr": ("wmt14_translate/fr-en:1.0.0", LABELLED, "fr", "wmt"),
    "wmt16_en_de": ("wmt16_translate/de-en:1.0.0", LABELLED, "de", "wmt"),
    "wmt16_en_ro": ("wmt16_translate/ro-en:1.0.0", LABELLED, "ro", "wmt"),
    "wmt16_en_ru": ("wmt16_translate/ru-en:1.0.0", LABELLED, "ru", "wmt"),
    "paracrawl_en_es": ("para_crawl/enes:1.2.0", ("train",), "es", "para_crawl"),
}
for name, (tfds_name, splits, code, origin) in PAIRS.items():
    instruction_task(
        name, **of_cluster("translation"), source=tfds(tfds_name, splits), fields=from_english(code), content=("text",),
        origin=origins(origin), metrics=("rouge_l", "token_f1"), tags={"language": code},
        templates=to_answer(
            "Translate into {language}: {text}",
            "{text}\nHow do you say this in {language}?",
            "English: {text}\n{language}:",
            "Give the {language} translation of the following.\n{text}",
            "{text}\n\nWrite the same in {language}.",
            "Put this English text into {language}.\n{text}",
        ),
        heldout_templates=to_answer(
            "My reader understands {language} alone. Help them with:\n{text}",
            "[en] {text}\n[{language}]",
        ),
        inverted=[
            ("Translate into English: {answer}", "{text}"),
            ("{language}: {answer}\nEnglish:", "{text}"),
            ("{answer}\nWhat does this {language} text say in English?", "{text}"),
        ],
    )  # fmt: skip
