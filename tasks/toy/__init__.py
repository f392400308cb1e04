# SPDX-License-Identifier: Apache-2.0
"""The embedded suite: procedural tasks that need no download. Importing this package registers
them.

Start with generate.py (word lists, families of inputs, frames), then one cluster, say pick.py;
heldout.py says what is never trained on. A file holds one cluster or two that use the same inputs.
"""

from tasks.toy import (  # noqa: F401
    compare,
    dates,
    lists,
    lookup,
    numbers,
    pick,
    rules,
    strings,
    translation,
    word_problems,
)
