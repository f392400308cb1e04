# SPDX-License-Identifier: Apache-2.0
"""Translation out of English; `:inv` is the way back.

Instructions are in English, in the other language and in Chinese, whatever the language of the
text: a model should follow them in any.
"""

from collections.abc import Callable
from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import tfds
from itx.tasks.templates import paraphrases
from tasks.from_tfds import checked, of_cluster, origins, to_answer

LANGUAGES = {"de": "German", "es": "Spanish", "fr": "French", "ro": "Romanian", "ru": "Russian"}
CHINESE = {
    "de": "德语",
    "es": "西班牙语",
    "fr": "法语",
    "ro": "罗马尼亚语",
    "ru": "俄语",
}  # their names
# Asks in the language itself: for it, and back to English
INTO = {
    "de": ("Übersetze diesen englischen Text ins Deutsche.", "Wie heißt das auf Deutsch?"),
    "es": ("Traduce este texto inglés al español.", "¿Cómo se dice esto en español?"),
    "fr": ("Traduis ce texte anglais en français.", "Comment dit-on cela en français ?"),
    "ro": ("Tradu acest text englezesc în română.", "Cum se spune asta în română?"),
    "ru": ("Переведи этот английский текст на русский.", "Как это будет по-русски?"),
}
BACK = {
    "de": ("Übersetze ins Englische.",), "es": ("Traduce al inglés.",), "fr": ("Traduis en anglais.",),
    "ro": ("Tradu în engleză.",), "ru": ("Переведи на английский.",),
}  # fmt: skip
INTO_CHINESE = ("请把下面的英文翻译成{chinese}。", "这段英文用{chinese}怎么说？")
BACK_CHINESE = ("请把下面的{chinese}翻译成英文。",)


def from_english(code: str) -> Callable[[dict], Any]:
    """`fields`: text, language, chinese (its name in Chinese), answer."""

    def fields(example: dict) -> Any:
        names = {"language": LANGUAGES[code], "chinese": CHINESE[code]}
        return checked({"text": example["en"], **names, "answer": example[code]})

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
        origin=origins(origin), metrics=("chrf", "bleu"), tags={"language": code},
        templates=[*to_answer(
            "Translate into {language}: {text}",
            "{text}\nHow do you say this in {language}?",
            "English: {text}\n{language}:",
            "Give the {language} translation of the following.\n{text}",
            "{text}\n\nWrite the same in {language}.",
            "Put this English text into {language}.\n{text}",
        ), *paraphrases([*INTO[code], *INTO_CHINESE], "{instruction}\n{text}")],
        heldout_templates=to_answer(
            "My reader understands {language} alone. Help them with:\n{text}",
            "[en] {text}\n[{language}]",
        ),
        inverted=[
            ("Translate into English: {answer}", "{text}"),
            ("{language}: {answer}\nEnglish:", "{text}"),
            ("{answer}\nWhat does this {language} text say in English?", "{text}"),
            *paraphrases([*BACK[code], *BACK_CHINESE], "{instruction}\n{answer}", "{text}"),
        ],
    )  # fmt: skip
