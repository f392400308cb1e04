# SPDX-License-Identifier: Apache-2.0
"""Files of what is measured once before tuning and once after it: {"before": …, "after": …,
"steps": {"before": key, "after": key}}."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from itx import hosts, storage


def once(file: Path, when: str, key: Any, measure: Callable[[], dict]) -> dict:
    """What the file holds, with what `measure` gives under `when` ("before" or "after"). It is
    called unless the file has a measurement of then under the same key: the step, and what else
    decides the numbers."""
    held = storage.read_object(file, "steps", absent={"steps": {}})
    if hosts.broadcast(lambda: held["steps"].get(when) != key):
        held[when], held["steps"][when] = measure(), key
        if hosts.is_writer():
            storage.write_json(file, storage.sealed(held))
    return held
