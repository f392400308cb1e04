# SPDX-License-Identifier: Apache-2.0
"""A conversation as pieces of text, and their token ids: the same in training and at inference."""

from collections.abc import Sequence

from itx.data.cache import Record
from itx.data.vocabulary import Vocabulary

Pieces = tuple[tuple[str, bool], ...]  # (text, trained?)
# the end of sequence within the text of a conversation: a code point that is no character
END = "\uffff"


def encoded(pieces: Sequence[tuple[str, bool]], vocabulary: Vocabulary) -> Record:
    """Each piece behind the one before it; for each END in it the id of EOS."""
    record: Record = []
    before = ""
    for piece, trained in pieces:
        ids: list[int] = []
        for n, part in enumerate(piece.split(END)):
            ids += [vocabulary.eos_id] * (n > 0) + vocabulary.behind(before, part)
            before = part or before
        record.append((ids, trained))
    return record
