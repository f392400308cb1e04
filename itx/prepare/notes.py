# SPDX-License-Identifier: Apache-2.0
"""What a build says of examples that it keeps: {sentence: how many examples it holds for}, and what
the vocabulary loses.

A skipped example is counted under its reason (itx/prepare/render.py); these are in the training
data, and a person would want to know: texts that look like control tokens, turns that imitate
others, targets that do not come back.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from itx.data.cache import Record
from itx.data.vocabulary import Vocabulary, any_of, unguarded
from itx.prepare.types import Item, Rendered
from itx.tasks.spec import TaskSpec
from itx.text import texts_of
from itx.text_format.pieces import END

DRAWN = 1000  # examples per folder, by content hash, whose targets are decoded again
READ = 10_000  # characters of a plain text that are decoded again
SHOWN = 3  # control tokens' texts that a sentence names
# How control tokens of today's vocabularies look, whatever this run's own are
LOOKS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|</?s>|<(?:pad|unk|bos|eos|mask|cls|sep)>"
    r"|<extra_id_\d{1,4}>|<unused\d{1,4}>|<(?:start|end)_of_(?:turn|image)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|\[(?:PAD|CLS|SEP|MASK|UNK|BOS|EOS)\]|<</?SYS>>"
)
WHITE_SPACE = {"\n": "newlines", "\r": "newlines", "\t": "tabs", " ": "spaces"}
SCRIPTS = {
    "CJK": "Chinese characters",
    "HIRAGANA": "Japanese letters",
    "KATAKANA": "Japanese letters",
    "COMBINING": "accents",
    "VARIATION": "variants of signs",
}


class Notes:
    """Gathers what is to be said of one cache folder.

    Args:
        items: what it is made from, before conversations and documents become the pieces that are
            trained on.
    """

    def __init__(
        self, vocabulary: Vocabulary, spec: TaskSpec | None = None, items: Sequence[Item] = ()
    ):
        self.vocabulary, self.spec = vocabulary, spec
        self.said: Counter = Counter()
        own = any_of(vocabulary.control)
        self.looks = re.compile(f"{own.pattern}|{LOOKS.pattern}") if own else LOOKS
        # Each of them begins with one of these.
        self.firsts = {"<", "[", *(text[0] for text in vocabulary.control)}
        self.like: Counter = Counter()  # examples that hold each text
        self.like_examples = 0
        drawn = sorted({item.hash for item in items})
        self.below = drawn[DRAWN] if len(drawn) > DRAWN else 2**64  # content hashes that are drawn
        self.decoded = self.lost = 0
        self.losses: Counter = Counter()
        for item in items if spec and not spec.templated else ():
            self.texts(texts_of(item.values))
            # A plain text is decoded as a document, for its targets are cut in ids.
            if spec.kind == "text" and item.hash < self.below:
                beginning = item.values["text"][:READ]
                self.decode([(beginning, vocabulary.encode(beginning))])

    def texts(self, parts: Iterable[str]) -> None:
        """Look at an example's texts."""
        likely = [part for part in parts if any(c in part for c in self.firsts)]
        control = {match for part in likely for match in self.looks.findall(part)}
        self.like.update(control)
        self.like_examples += bool(control)

    def records(
        self, rendered: Sequence[Rendered], records: Sequence[Record], owners: Sequence[Item]
    ) -> None:
        """Look at renderings, and decode the targets of those that are drawn."""
        for r, record, item in zip(rendered, records, owners, strict=True):
            if self.spec.templated:
                self.texts((r.prompt, r.target))
            if item.hash < self.below and self.spec.kind != "text":
                texts = [t for t, trained in r.pieces if trained] or [r.target]
                texts = [unguarded(t).replace(END, "") for t in texts]
                ids = [ids for ids, trained in record if trained]
                self.decode(list(zip(texts, ids, strict=True)))

    def decode(self, targets: Sequence[tuple[str, Sequence[int]]]) -> None:
        """See whether an example's targets, (text, ids) of each, come back."""
        lost: set[str] = set()
        for text, ids in targets:
            again = self.vocabulary.answer([i for i in ids if i != self.vocabulary.eos_id])
            # One space joins a target to what stands before it.
            lost |= losses(text.removeprefix(" "), again)
        self.decoded += 1
        self.lost += bool(lost)
        self.losses.update(lost)

    def facts(self) -> dict[str, Any]:
        """{"said", "decoded"} of a manifest."""
        said = {what: n for what, n in sorted(self.said.items()) if n}
        if self.like_examples:
            named = ", ".join(map(repr, list(_by_count(self.like))[:SHOWN]))
            what = "examples hold texts that look like control tokens and are trained as plain text"
            said[f"{what} ({named})"] = self.like_examples
        decoded = {"examples": self.decoded, "lost": self.lost, "losses": _by_count(self.losses)}
        return {"said": said, "decoded": decoded}


def _by_count(counts: Counter) -> dict[str, int]:
    """The most frequent first, in an order that does not depend on the process."""
    return dict(sorted(counts.items(), key=lambda x: (-x[1], x[0])))


def losses(text: str, again: str) -> set[str]:
    """The kinds of characters of a text that are not in what it came back as; empty where it came
    back whole."""
    if text == again:
        return set()
    if gone := Counter(text) - Counter(again):
        return {_kind(c) for c in gone}
    added = Counter(again) - Counter(text)
    return {"their text, to which some is added" if added else "the order of characters"}


def _kind(character: str) -> str:
    if character.isspace():
        return WHITE_SPACE.get(character, "other white space")
    if unicodedata.category(character)[0] not in "LM":
        return repr(character)
    word = unicodedata.name(character, "unnamed").split()[0]
    return SCRIPTS.get(word, f"{word.capitalize()} letters")
