# SPDX-License-Identifier: Apache-2.0
"""Instructions whose following a rule can verify: the 25 kinds of IFEval (Zhou et al. 2023,
arXiv:2311.07911), by their published names and arguments.

instruction   {"id": "length_constraints:number_words", "kwargs": {"relation", "num_words"}}
strict        the answer as it stands follows it
loose         it does, or would without its first line, its last line, its asterisks, or some of
              these: what a polite frame or markdown adds is forgiven

Words that an instruction names are looked for as they stand, not as patterns. A sentence ends with
. ! ? or … before white space or the end, or with a mark such as 。; the paper counts with NLTK's
tokenizer for English, which also knows abbreviations. An answer too short to tell its language
follows what is asked of its language, as in the paper.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from itx import languages, text
from itx.errors import UserError, check_known

LESS, LEAST = "less than", "at least"
FIRST_WORD_ENDS = ".,?!'\""
SENTENCE = re.compile(r".*?(?:[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[」』”’]*|$)", re.DOTALL)
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _related(count: int, relation: str, limit: int) -> bool:
    check_known(relation, (LESS, LEAST), f"relation {relation!r} of an instruction is none")
    return count < limit if relation == LESS else count >= limit


def _count(word: str, said: str) -> int:
    return len(re.findall(re.escape(word), said, re.IGNORECASE))


def sentences(said: str) -> list[str]:
    return [s for m in SENTENCE.finditer(said) if any(map(str.isalnum, s := m[0]))]


def _is_language(said: str, code: str) -> bool:
    found, _ = languages.language_of(said)
    return found in ("", code.partition("-")[0])


# ---- one function a kind: (answer, arguments of the instruction) -> whether it is followed


def _keywords(said: str, keywords: list[str]) -> bool:
    return all(_count(word, said) for word in keywords)


def _frequency(said: str, keyword: str, frequency: int, relation: str) -> bool:
    return _related(_count(keyword, said), relation, frequency)


def _forbidden(said: str, forbidden_words: list[str]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", said, re.IGNORECASE) for word in forbidden_words
    )


def _letters(said: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _related(said.lower().count(letter.lower()), let_relation, let_frequency)


def _sentences(said: str, num_sentences: int, relation: str) -> bool:
    return _related(len(sentences(said)), relation, num_sentences)


def _parts(said: str, mark: str) -> list[str] | None:
    """What stands between marks; None where nothing does between two of them."""
    parts = [p.strip() for p in re.split(rf"\s?{re.escape(mark)}\s?", said)]
    inner = [p for i, p in enumerate(parts) if p or 0 < i < len(parts) - 1]
    return inner if all(inner) else None


def _paragraphs(said: str, num_paragraphs: int) -> bool:
    parts = _parts(said, "***")
    return parts is not None and len(parts) == num_paragraphs


def _words(said: str, num_words: int, relation: str) -> bool:
    return _related(len(re.findall(r"\w+", said)), relation, num_words)


def _first_word(said: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = said.split("\n\n")
    written = [p for p in paragraphs if p.strip()]
    if nth_paragraph > len(written) or not (paragraph := paragraphs[nth_paragraph - 1].strip()):
        return False
    word = paragraph.split()[0].lstrip("'").lstrip('"').lower()
    bare = re.split(f"[{re.escape(FIRST_WORD_ENDS)}]", word)[0]
    return len(written) == num_paragraphs and bare == first_word.lower()


def _placeholders(said: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", said)) >= num_placeholders


POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def _postscript(said: str, postscript_marker: str) -> bool:
    pattern = POSTSCRIPTS.get(postscript_marker, re.escape(postscript_marker.lower()))
    return bool(re.search(pattern, said.lower()))


def _bullets(said: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", said, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", said, re.MULTILINE)) == num_bullets


def _constrained(said: str) -> bool:
    return any(option in said for option in CONSTRAINED)


def _highlights(said: str, num_highlights: int) -> bool:
    """As the paper counts: pairs of asterisks with something between them, and bold texts again."""
    single = [h for h in re.findall(r"\*[^\n\*]*\*", said) if h.strip("*").strip()]
    double = [h for h in re.findall(r"\*\*[^\n\*]*\*\*", said) if h[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def _sections(said: str, section_spliter: str, num_sections: int) -> bool:
    marks = re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", said)
    return len(marks) >= num_sections


def _json(said: str) -> bool:
    bare = re.sub(r"^```(?:json|Json|JSON)?|```$", "", said.strip()).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def _title(said: str) -> bool:
    return any(t.lstrip("<").rstrip(">").strip() for t in re.findall(r"<<[^\n]+>>", said))


def _two_responses(said: str) -> bool:
    parts = said.split("******")
    written = [p.strip() for p in parts if p.strip()]
    empty_between = any(not p.strip() for p in parts[1:-1])
    return not empty_between and len(written) == 2 and written[0] != written[1]


def _repeats(said: str, prompt_to_repeat: str) -> bool:
    return said.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends(said: str, end_phrase: str) -> bool:
    return said.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(said: str) -> bool:
    bare = said.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _capital_words(said: str, capital_frequency: int, capital_relation: str) -> bool:
    words = [w for w in re.findall(r"[^\W_][\w'’-]*", said) if w.isupper()]
    return _related(len(words), capital_relation, capital_frequency)


def _capitals(said: str) -> bool:
    return said.isupper() and _is_language(said.lower(), "en")


def _small(said: str) -> bool:
    return said.islower() and _is_language(said, "en")


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda said, language: _is_language(said, language),
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _small,
    "punctuation:no_comma": lambda said: "," not in said,
}


def instruction(kind: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """An instruction with the arguments that its kind takes (published rows name all arguments of
    all kinds, those of others as null); UserError where its kind is unknown or an argument is
    missing."""
    check_known(kind, CHECKS, f"instruction {kind!r} is none that can be verified")
    code = CHECKS[kind].__code__
    wanted = code.co_varnames[1 : code.co_argcount]
    missing = [name for name in wanted if kwargs.get(name) is None]
    if missing:
        raise UserError(f"instruction {kind!r} has no {missing[0]!r}")
    return {"id": kind, "kwargs": {name: kwargs[name] for name in wanted}}


def follows(given: dict[str, Any], said: str) -> bool:
    """Whether an answer follows an instruction; an empty one follows none."""
    return not text.blank(said) and CHECKS[given["id"]](said, **given["kwargs"])


def loosely(given: dict[str, Any], said: str) -> bool:
    return any(follows(given, form) for form in forms(said))


def forms(said: str) -> Iterator[str]:
    """An answer, and it without its first line, its last, both; each also without asterisks."""
    lines = said.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        whole = said if part is lines else "\n".join(part).strip()
        yield whole
        yield whole.replace("*", "")
