# SPDX-License-Identifier: Apache-2.0
"""Leave out of training what evaluation asks: what itx/leaks/contamination.py finds, with the texts
that it reads."""

from collections import Counter
from typing import Any

from itx.data.cache import Texts
from itx.data.types import Lock
from itx.errors import UserError
from itx.leaks import loose
from itx.leaks.contamination import Found
from itx.text import texts_of


def texts(content: Any, rest: Any) -> Texts:
    """The loose forms of an example's texts, each once; a template's own words are no example's."""

    def forms(value: Any) -> list[str]:
        return [form for form in dict.fromkeys(map(loose.loose, texts_of(value))) if form]

    first = forms(content)
    return first, [form for form in forms(rest) if form not in first]


def exclude(lock: Lock, found: Found) -> None:
    """Add what was found to each task's `excluded`, and the counts to its audit and to `leaks`."""
    lock["leaks"] = []
    for task in lock["tasks"]:
        leaks, audit = found[task["name"]], task["audit"]
        new = sorted(set(leaks) - set(task["excluded"][0]))
        task["excluded"] = [sorted({*before, *leaks}) for before in task["excluded"]]
        for (evaluation, how), n in sorted(Counter(leaks[i] for i in new).items()):
            leak = {"train": task["name"], "evaluation": evaluation, "how": how, "dropped": n}
            lock["leaks"].append(leak)
            reason = f"in evaluation ({how})"
            audit["skipped"][reason] = audit["skipped"].get(reason, 0) + n
        task["examples"] -= len(new)
        audit["kept"] -= len(new)
        if not task["examples"]:
            raise UserError(
                f"task {task['name']}: no training example is left; skipped: {audit['skipped']}"
            )
