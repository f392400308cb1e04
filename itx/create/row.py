# SPDX-License-Identifier: Apache-2.0
"""A made pair, as filters see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A made pair. options: what the answer is to be one of; finish: why the answer ended
    (generators.py), "" where nobody told."""

    instruction: str
    input: str
    output: str
    options: tuple[str, ...] = ()
    finish: str = ""

    @property
    def texts(self) -> tuple[str, str, str]:
        return self.instruction, self.input, self.output

    @property
    def prompt(self) -> str:
        """The instruction and the input as a person would send them, an empty line between."""
        return "\n\n".join(filter(None, (self.instruction, self.input)))

    @property
    def asked(self) -> str:
        return "\n".join(filter(None, (self.instruction, self.input)))

    @property
    def whole(self) -> str:
        return "\n".join(filter(None, self.texts))
