# SPDX-License-Identifier: Apache-2.0
"""A request that is sent again with its Idempotency-Key is computed once."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from itx.serve.fields import Refused

MAX_KEPT, MAX_KEPT_BYTES = 1024, 16 * 2**20  # answers that are remembered, the newest


@dataclass
class Held:
    """An answer, done or on its way. waiting: requests that wait for it."""

    digest: str
    task: asyncio.Task
    waiting: int = 0
    size: int = 0  # bytes of a done one


class Repeats:
    """Answers by the keys of their requests, in the event loop's thread alone."""

    def __init__(self) -> None:
        self.held: OrderedDict[str, Held] = OrderedDict()

    async def once(
        self, key: str, digest: str, work: Callable[[], Awaitable[dict]]
    ) -> tuple[dict, bool]:
        """(the answer, whether an earlier request with this key began it). When all that wait for
        an answer have left, it is given up.

        Args:
            digest: of the request; another request under the same key is Refused.
        """
        held = self.held.get(key)
        repeated = held is not None
        if held is None:
            held = self.held[key] = Held(digest, asyncio.ensure_future(work()))
        elif held.digest != digest:
            raise Refused("another request was sent with this Idempotency-Key", status=422)
        held.waiting += 1
        try:
            answer = await asyncio.shield(held.task)
        except BaseException:
            # a failure is not remembered, nor what nobody waits for
            if held.task.done() or held.waiting == 1:
                held.task.cancel()
                if self.held.get(key) is held:
                    del self.held[key]
            raise
        finally:
            held.waiting -= 1
        held.size = held.size or len(json.dumps(answer))
        self._forget_old()
        return answer, repeated

    def _forget_old(self) -> None:
        done = [key for key, held in self.held.items() if held.size]
        size = sum(self.held[key].size for key in done)
        while done and (len(done) > MAX_KEPT or size > MAX_KEPT_BYTES):
            size -= self.held.pop(done.pop(0)).size
