# SPDX-License-Identifier: Apache-2.0
"""From token ids to the text that a client is told, as the engine of evaluation reads answers
(itx/eval/texts.py), but bit by bit: what has been told never changes."""

import re

from itx.data.vocabulary import Bytes, Vocabulary
from itx.eval.loaded import Ids
from itx.eval.texts import cut, settled
from itx.serve.asks import CUT, STOPPED, Delta, Scored, Ticket

# A vocabulary's token for one byte. Some decoders read a run of them as a whole: what it says is
# known when it has ended.
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Writer:
    """The text of one answer."""

    def __init__(self, vocabulary: Vocabulary, ends: tuple[int, ...], ticket: Ticket):
        self.vocabulary, self.ends, self.ticket = vocabulary, ends, ticket
        self.told, self.told_scores = "", 0

    def delta(self) -> Delta | None:
        """What the ticket's ids have added to the text, and whether it is whole; None: nothing that
        is to be told."""
        ids, ask = self.ticket.ids, self.ticket.ask
        ended = ids[-1] in self.ends
        ids = ids[:-1] if ended else ids
        over = ended or len(ids) >= ask.max_tokens
        if not over and not ask.streamed and not ask.stop:
            return None
        text, stopped_by = cut(self.vocabulary.answer(ids), ask.stop)
        over = over or stopped_by is not None
        if not over and not ask.streamed:
            return None
        if not over:
            text = cut(self.vocabulary.answer(self._whole(ids)), ask.stop)[0]
            text = settled(text, ask.stop)
            text = text if text.startswith(self.told) else self.told
        if not text.startswith(self.told):
            return self._failed(len(ids))
        added, self.told = text[len(self.told) :], text
        if stopped_by is not None:
            ids = self._until(ids, stopped_by)
        scored = self._scored(ids, all_of_them=over and stopped_by is None)
        finish = None if not over else STOPPED if ended or stopped_by is not None else CUT
        return Delta(added, scored, finish, len(ids)) if over or added or scored else None

    def _failed(self, tokens: int) -> Delta:
        """The vocabulary reads the whole otherwise than its beginning, which has been told."""
        why = "the text of this answer changed behind what had been told; ask without stream"
        return Delta("", [], CUT, tokens, why)

    def _whole(self, ids: Ids) -> Ids:
        """The ids without a run of bytes at their end that may go on."""
        if isinstance(self.vocabulary.model, Bytes):  # which reads byte by byte
            return ids
        end = len(ids)
        while end and BYTE.fullmatch(self.vocabulary.pieces([ids[end - 1]])[0]):
            end -= 1
        return ids[:end]

    def _until(self, ids: Ids, stop: str) -> Ids:
        """The ids up to the one that completes a stop string, as itx/eval/texts.py counts them."""
        shorter = (ids[:n] for n in range(1, len(ids) + 1))
        return next(some for some in shorter if stop in self.vocabulary.answer(some))

    def _scored(self, ids: Ids, all_of_them: bool) -> list[Scored]:
        """The scores, not given before, of the tokens that begin within what has been told; a stop
        string's are none of them."""
        if not self.ticket.ask.scored:
            return []
        out = []
        for i in range(self.told_scores, len(ids)):
            before = self.vocabulary.answer(ids[:i]).rstrip("\ufffd")
            if len(before) >= len(self.told) and not all_of_them:
                break
            out.append(Scored(ids[i], *self.ticket.scores[i], len(before)))
        self.told_scores += len(out)
        return out
