# SPDX-License-Identifier: Apache-2.0
"""Leave out of training what evaluation asks: what itx/leaks/contamination.py finds, with the texts
that it reads."""

from collections import Counter
from typing import Any

from itx.data.cache import Texts
from itx.errors import UserError
from itx.leaks import loose
from itx.leaks.contamination import Found
from itx.text import texts_of


def texts(content: Any, rest: Any) -> Texts:
    """The loose forms of an example's texts, each once; a template's own words are no example's."""
    first, second = (
        [form for form in dict.fromkeys(map(loose.loose, texts_of(v))) if form]
        for v in (content, rest)
    )
    return first, [form for form in second if form not in first]


def exclude(lock: dict, found: Found) -> None:
    """Add what was found to each task's `excluded`, and the counts to its audit and to `leaks`."""
    lock["leaks"] = []
    for task in lock["tasks"]:
        hits = found[task["name"]]
        new = sorted(set(hits) - set(task["excluded"][0]))
        task["excluded"] = [sorted({*before, *hits}) for before in task["excluded"]]
        for (evaluation, how), n in sorted(Counter(hits[i] for i in new).items()):
            lock["leaks"].append(
                {"train": task["name"], "evaluation": evaluation, "how": how, "dropped": n}
            )
            reason = f"in evaluation ({how})"
            task["audit"]["skipped"][reason] = task["audit"]["skipped"].get(reason, 0) + n
        task["examples"] -= len(new)
        task["audit"]["kept"] -= len(new)
        if not task["examples"]:
            raise UserError(
                f"task {task['name']}: no training example is left; skipped: {task['audit']['skipped']}"
            )
