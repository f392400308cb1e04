# SPDX-License-Identifier: Apache-2.0
"""The engine of evaluation, of `itx generate` and of whoever asks a model: generation and ranking
in one object."""

from collections.abc import Sequence
from dataclasses import dataclass

from itx.eval import generate, rank
from itx.eval.generate import LOOK_EVERY, Answer, Watch
from itx.eval.loaded import Ids, LoadedModel
from itx.eval.rank import Scored
from itx.eval.sampling import GREEDY, Sampling


@dataclass(frozen=True)
class Runner:
    """A model ready to be asked."""

    loaded: LoadedModel

    def generate(
        self,
        prompts: list[Ids],
        max_new_tokens: int | Sequence[int],
        how: Sampling = GREEDY,
        watch: Watch | None = None,
        every: int = LOOK_EVERY,
        draws: Sequence[int] | None = None,
    ) -> list[Answer]:
        """Continue prompts: see itx/eval/generate.py."""
        return generate.generate(self.loaded, prompts, max_new_tokens, how, watch, every, draws)

    def rank(
        self, prompts: list[Ids], options: list[list[Ids]], eos: bool = True
    ) -> list[list[Scored]]:
        """Log-probabilities of options: see itx/eval/rank.py."""
        return rank.rank(self.loaded, prompts, options, eos)
