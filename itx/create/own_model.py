# SPDX-License-Identifier: Apache-2.0
"""Answers of a model of ours: through the engine of evaluation, in batches, on its mesh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itx import movement
from itx.create.generators import ASSISTANT, CUT, STOPPED, Calls, Completion, Request, failure
from itx.errors import UserError
from itx.eval import terminal
from itx.eval.sampling import Sampling
from itx.eval.texts import texts


@dataclass(frozen=True)
class OwnModel:
    """A model of ours in memory, on its mesh.

    What is drawn for a request depends on its seed alone, not on what else is asked. batch: so many
    requests are asked together, and kept together.
    """

    run: terminal.Run
    name: str  # e.g. model-<fingerprint of the parameters>
    batch: int = 64

    def facts(self) -> dict[str, Any]:
        loaded = self.run.runner.loaded
        return {"kind": "model", "name": self.name, "step": loaded.step, "family": loaded.family}

    def complete(self, requests: Sequence[Request], calls: Calls) -> None:
        groups: dict[tuple, list[int]] = {}
        for i, r in enumerate(requests):
            how = (r.temperature, r.top_p, r.stop, bool(r.messages), r.speaker)
            groups.setdefault(how, []).append(i)
        with movement.track("answered", len(requests), "requests") as advance_by:
            for places in groups.values():
                for begin in range(0, len(places), self.batch):
                    part = places[begin : begin + self.batch]
                    self._ask([requests[i] for i in part], part, calls)
                    advance_by(len(part))

    def _ask(self, requests: list[Request], places: list[int], calls: Calls) -> None:
        """Requests that differ in nothing but their text, their seed and their length."""
        first, fitting, loaded = requests[0], [], self.run.runner.loaded
        ids = [self._ids(r) for r in requests]
        for i, r, prompt in zip(places, requests, ids, strict=True):
            calls.sending(i)
            if not loaded.can_begin(len(prompt)):
                why = "an empty prompt, and the vocabulary puts no BOS before it"
                calls.answered(i, failure(why))
            elif why := loaded.no_room(len(prompt), r.max_tokens):
                calls.answered(i, failure(f"the prompt {why}"))
            else:
                fitting.append((i, r, prompt))
        if not fitting:
            return
        stop = tuple(dict.fromkeys((*first.stop, *(self.run.stops() if first.messages else ()))))
        answers = texts(
            self.run.runner,
            self.run.vocabulary,
            [prompt for *_, prompt in fitting],
            [r.max_tokens for _, r, _ in fitting],
            Sampling(temperature=first.temperature, top_p=first.top_p if first.temperature else 1),
            stop,
            draws=[r.seed for _, r, _ in fitting],
        )
        for (i, _, prompt), answer in zip(fitting, answers, strict=True):
            finish = STOPPED if answer["finished"] else CUT
            counts = len(prompt), len(answer["tokens"])
            calls.answered(i, Completion(answer["text"], finish, *counts))

    def _ids(self, request: Request) -> list[int]:
        if not request.messages:
            return self.run.vocabulary.encode(request.prompt)
        if request.speaker != ASSISTANT:
            if not self.run.template:
                raise UserError(f"{self.name} has no chat template: it has no turn of a user")
            return self.run.opening([m._asdict() for m in request.messages], request.speaker)
        if not self.run.template and len(request.messages) > 1:
            raise UserError(f"{self.name} has no chat template: ask it with one message, no system")
        return self.run.ids([m._asdict() for m in request.messages])
