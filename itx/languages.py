# SPDX-License-Identifier: Apache-2.0
"""The language of a text, by py3langid (extra `create`)."""

import functools
import re
from typing import Any

from itx import text
from itx.errors import UserError

# Those that are told apart. Of rare ones a list of names or an abbreviation makes one.
LANGUAGES = (
    "ar az bg bn ca cs da de el en es et fa fi fr he hi hr hu hy id it ja ka kk ko lt lv ms nl no "
    "pl pt ro ru sk sl sr sv ta te th tr uk ur vi zh"
).split()
MIN_LETTERS = 15  # of a text whose language is asked


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid import langid
    except ImportError as e:
        raise UserError(
            "telling a text's language needs py3langid, which is not installed: pip install "
            "'itx[create]'"
        ) from e
    made = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    made.set_languages(LANGUAGES)
    return made


def language_of(said: str) -> tuple[str, float]:
    """(code, probability) of a text's language; ("", 0) where there are too few letters to tell.
    Blocks of code and addresses do not count."""
    prose = re.sub(r"```.*?(?:```|$)|https?://\S+|`[^`\n]*`", " ", said, flags=re.DOTALL)
    # a letter of a script without spaces tells as much as two
    letters = sum(map(str.isalpha, prose)) + len(_UNSPACED.findall(prose))
    if letters < MIN_LETTERS:
        return "", 0.0
    code, probability = _identifier().classify(prose)
    return str(code), float(probability)


_UNSPACED = re.compile(f"[{text.UNSPACED}]")
