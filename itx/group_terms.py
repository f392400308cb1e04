# SPDX-License-Identifier: Apache-2.0
"""Words that name groups of people, and the word that names another group in the same place.

The audit says how often a task names a group, and `itx analyze` takes slices of such prompts and
swaps a term for its counterpart, everything else kept. Groups of one kind list their terms
in the same order: the third of one stands where the third of another does. Word forms are whole
words, without case; a term that could be two parts of speech (English `her`: `his` or `him`) is in
no list, so that it is never swapped wrongly.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from itx import text


class Group(NamedTuple):
    kind: str  # what is swapped: gender, religion, …
    name: str  # for people: women, Muslims, …
    terms: tuple[str, ...]  # normalised; equally many in each group of a kind


def _group(kind: str, name: str, terms: str) -> Group:
    return Group(kind, name, tuple(t.strip() for t in terms.split(",")))


GROUPS = (
    _group(
        "gender",
        "women",
        "she, herself, woman, women, girl, girls, mother, mothers, daughter, daughters, sister, "
        "sisters, wife, wives, aunt, grandmother, queen, princess, lady, ladies, actress, "
        "waitress, "
        "она, женщина, женщины, девочка, девочки, мать, дочь, сестра, жена, тётя, бабушка",
    ),
    _group(
        "gender",
        "men",
        "he, himself, man, men, boy, boys, father, fathers, son, sons, brother, brothers, husband, "
        "husbands, uncle, grandfather, king, prince, gentleman, gentlemen, actor, waiter, "
        "он, мужчина, мужчины, мальчик, мальчики, отец, сын, брат, муж, дядя, дедушка",
    ),
    _group("first name", "women's names", "mary, anna, laura, emily, sarah, julia, мария, анна"),
    _group("first name", "men's names", "john, peter, david, thomas, paul, mark, иван, пётр"),
    _group(
        "religion",
        "Christians",
        "christian, christians, christianity, church, priest, bible, христианин, христиане",
    ),
    _group(
        "religion",
        "Muslims",
        "muslim, muslims, islam, mosque, imam, quran, мусульманин, мусульмане",
    ),
    _group("religion", "Jews", "jew, jews, judaism, synagogue, rabbi, torah, иудей, иудеи"),
    _group("age", "young people", "young, teenager, grandson, granddaughter, молодой, молодая"),
    _group("age", "old people", "old, pensioner, grandfather, grandmother, старый, старая"),
    _group("nationality", "Americans", "american, americans, america, американец, американцы"),
    _group("nationality", "Chinese", "chinese, chinese, china, китаец, китайцы"),
    _group("nationality", "Russians", "russian, russians, russia, русский, русские"),
    _group("nationality", "Mexicans", "mexican, mexicans, mexico, мексиканец, мексиканцы"),
    _group("nationality", "Nigerians", "nigerian, nigerians, nigeria, нигериец, нигерийцы"),
    _group("skin", "Black people", "black man, black woman, black people, black person"),
    _group("skin", "white people", "white man, white woman, white people, white person"),
    _group("disability", "disabled people", "disabled, blind, deaf"),
    _group("disability", "people without a disability", "nondisabled, sighted, hearing"),
)
KINDS = tuple(dict.fromkeys(g.kind for g in GROUPS))


@functools.cache
def _pattern(terms: tuple[str, ...]) -> re.Pattern:
    longest_first = sorted(set(terms), key=lambda t: (-len(t), t))
    joined = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE)


EVERY_TERM = tuple(term for group in GROUPS for term in group.terms)


def named(prompt: str) -> list[Group]:
    """The groups that a normalised text names."""
    terms = set(_pattern(EVERY_TERM).findall(prompt))
    return [g for g in GROUPS if not terms.isdisjoint(g.terms)] if terms else []


def names_any(written: str, groups: Iterable[Group]) -> bool:
    """Whether a text names one of some groups."""
    normal = text.normalise(written)
    return any(_pattern(g.terms).search(normal) for g in groups)


def swaps(written: str) -> Iterator[tuple[Group, Group, str]]:
    """(group that a text names, another of its kind, the text with the one's terms in place of the
    other's). Nothing where both are named already: what is swapped must be all that differs."""
    groups = named(text.normalise(written))
    for group in groups:
        if any(g.kind == group.kind and g != group for g in groups):
            continue
        for other in GROUPS:
            if other.kind == group.kind and other != group:
                swapped = swap(written, group, other)
                if swapped != written:
                    yield group, other, swapped


def swap(written: str, group: Group, other: Group) -> str:
    """A text with the terms of one group in place of another's, as far as there are such."""
    counterpart: dict[str, str] = {}
    for term, theirs in zip(group.terms, other.terms, strict=False):
        counterpart.setdefault(term, theirs)

    def replaced(match: re.Match) -> str:
        theirs = counterpart.get(match[0].casefold())
        if theirs is None:  # the other group has no word in its place
            return match[0]
        return _in_the_case_of(match[0], theirs)

    return _pattern(group.terms).sub(replaced, written)


def _in_the_case_of(written: str, term: str) -> str:
    """`Mary`, `MARY` or `mary`, as the word was written whose place it takes."""
    if written.isupper() and len(written) > 1:
        return term.upper()
    return term[0].upper() + term[1:] if written[0].isupper() else term
