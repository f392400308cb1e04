# SPDX-License-Identifier: Apache-2.0
"""The journal of a creation: every request, every attempt, every answer, in one SQLite file.

What is promised
    An answer that the journal holds is never asked for again, whatever was killed since.
    Nothing is asked twice at a time: one process writes a journal, and it holds a lock.
    An attempt is written down before it is sent. One whose outcome is missing was in flight when
    its process was killed, with the answer lost: it is asked again, counted and told. Nobody can
    do better from one side of a connection; courier.py makes such calls from a process that
    outlives the one that asks, so that they are lost only if both are killed (or the machine). Each
    request also has its digest as the header Idempotency-Key, for servers that know it.

What an attempt may cost is written down with it (`most`), and what it did cost with its outcome
(`tokens`: as counted by who answered, 0 for a refusal, `most` where nobody knows).

The file is in WAL mode and each change is on the disk before the next step (synchronous=FULL). It
holds no address and no key.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from itx import hashing, storage
from itx.create.generators import Completion, Generator, Recorded, Request, request_of
from itx.errors import RunFailed, UserError
from itx.text import say

VERSION = 1
MAX_WAIT_SECONDS = 600.0  # for a process that still writes the journal
MIN_FREE_BYTES = 32 * 2**20  # on the disk, before a call is paid whose answer must be kept
ANSWERED, IN_FLIGHT = "answered", "in flight"
TABLES = """
create table calls (key text primary key, generator text not null, request text not null,
                    completion text, seal text);
create table attempts (id integer primary key, key text not null, at real not null, outcome text,
                       most integer not null, tokens integer);
create index attempts_of on attempts (key);
"""


@dataclass(frozen=True)
class Budget:
    """Where asking ends, and what it costs. tokens: read and written together, 0: no end. Prices
    are for a million tokens, in any currency."""

    tokens: int = 0
    prompt_price: float = 0.0
    completion_price: float = 0.0


class Journal:
    """One journal, open. Safe to use from several threads."""

    def __init__(self, path: Path | str, reads_only: bool = False) -> None:
        """UserError where the file is no journal of this version, or another process writes it."""
        self.path = Path(path)
        self._mutex = threading.Lock()
        self._held = None if reads_only else _hold(self.path)
        with self._named():
            known = self.path.is_file() and self.path.stat().st_size > 0
            mode = "ro" if reads_only else "rwc"
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            self._db = sqlite3.connect(
                address, uri=True, check_same_thread=False, isolation_level=None
            )
            if not reads_only:
                self._db.execute("pragma journal_mode=wal")
                self._db.execute("pragma synchronous=full")
            if not known and not reads_only:
                self._db.executescript(f"begin; {TABLES} pragma user_version={VERSION}; commit;")
            (version,) = self._db.execute("pragma user_version").fetchone()
        if version != VERSION:
            self.close()
            raise UserError(
                f"{self.path} is a journal of version {version}, and this program writes "
                f"{VERSION}: give another folder"
            )

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Inside, what SQLite cannot do is told of this file, by one thread at a time."""
        with self._mutex:
            try:
                yield
            except sqlite3.DatabaseError as e:
                code = getattr(e, "sqlite_errorcode", 0) & 0xFF
                if code == sqlite3.SQLITE_FULL:
                    raise OSError(errno.ENOSPC, "No space left on device", str(self.path)) from e
                if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise UserError(
                        f"{self.path} is damaged ({e}): put a sound copy in its place, or remove "
                        "it, and all is asked anew"
                    ) from e
                raise OSError(errno.EIO, f"cannot be used ({e})", str(self.path)) from e

    def _do(self, statement: str, *values: Any) -> list[tuple]:
        with self._named():
            return self._db.execute(statement, values).fetchall()

    # ---- what is asked

    def completion(self, key: str) -> Completion | None:
        """The answer kept under a key; UserError where it is not what was written."""
        found = self._do("select completion, seal from calls where key = ?", key)
        if not found or found[0][0] is None:
            return None
        text, seal = found[0]
        if seal != hashing.digest(key, text):
            raise UserError(
                f"{self.path} is damaged: the answer under {key} is not what was written; put a "
                "sound copy in its place"
            )
        return Completion(**json.loads(text))

    def sending(self, key: str, generator: str, request: Request) -> int:
        """Write down that an attempt begins; its number."""
        facts = json.dumps(request.facts())
        with self._named(), self._db:
            self._db.execute("begin")
            self._db.execute(
                "insert or ignore into calls (key, generator, request) values (?, ?, ?)",
                (key, generator, facts),
            )
            attempt = self._db.execute(
                "insert into attempts (key, at, most) values (?, ?, ?)",
                (key, time.time(), request.most_tokens),
            )
            return attempt.lastrowid

    def refused(self, attempt: int, why: str, tokens: int) -> None:
        self._do("update attempts set outcome = ?, tokens = ? where id = ?", why, tokens, attempt)

    def answered(self, attempt: int, key: str, completion: Completion, tokens: int) -> None:
        """Write down the answer; of an attempt that was refused, that there will be none."""
        text = json.dumps(asdict(completion))
        with self._named(), self._db:
            self._db.execute("begin")
            outcome = ANSWERED if not completion.error else "failed"
            self._db.execute(
                "update attempts set outcome = ?, tokens = ? where id = ? and outcome is null",
                (outcome, tokens, attempt),
            )
            self._db.execute(
                "update calls set completion = ?, seal = ? where key = ?",
                (text, hashing.digest(key, text), key),
            )

    # ---- what it cost

    def lost(self, keys: Sequence[str]) -> int:
        """How many of these calls were in flight when their process was killed."""
        without = self._do("select key from calls where completion is null")
        sent = self._do("select key from attempts where outcome is null")
        return len(set(keys) & {k for (k,) in without} & {k for (k,) in sent})

    def ledger(self, budget: Budget | None = None) -> dict[str, Any]:
        """What was asked and what it cost: counts of attempts by outcome, tokens, price."""
        budget = budget or Budget()
        outcomes = dict(
            self._do(
                "select coalesce(outcome, ?), count(*) from attempts group by 1 order by 1",
                IN_FLIGHT,
            )
        )
        sums: Counter[str] = Counter()
        finishes: Counter[str] = Counter()
        for (text,) in self._do("select completion from calls where completion is not null"):
            answer = Completion(**json.loads(text))
            finishes[answer.finish] += 1
            sums["without counts"] += answer.prompt_tokens is None and not answer.error
            sums["prompt tokens"] += answer.prompt_tokens or 0
            sums["completion tokens"] += answer.completion_tokens or 0
        price = budget.prompt_price * sums["prompt tokens"]
        price += budget.completion_price * sums["completion tokens"]
        return {
            "answers": finishes.total(),
            "finishes": dict(sorted(finishes.items())),
            "attempts": outcomes,
            "prompt_tokens": sums["prompt tokens"],
            "completion_tokens": sums["completion tokens"],
            "answers_without_token_counts": sums["without counts"],
            "tokens_at_most": self.spent(),
            "price": price / 1e6,
        }

    def spent(self) -> int:
        """Tokens read and written by all attempts; where nobody counted them, the most they can
        be."""
        return self._do("select coalesce(sum(coalesce(tokens, most)), 0) from attempts")[0][0]

    def every(self) -> Iterator[tuple[str, Request, Completion]]:
        """(generator, request, answer) of each call that is answered, in the order of keys."""
        rows = self._do("select key, generator, request from calls order by key")
        for key, generator, request in rows:
            if (answer := self.completion(key)) is not None:
                yield generator, request_of(json.loads(request)), answer


def _hold(path: Path) -> int:
    """The journal's lock, held while the number is open. Waits for a courier that still has calls
    in flight."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    told = False
    until = time.monotonic() + MAX_WAIT_SECONDS
    while storage.try_lock(number, fcntl.LOCK_EX) is False:
        if not told:
            say(f"{path}: waiting for the process that writes it to end")
            told = True
        if time.monotonic() > until:
            os.close(number)
            raise UserError(f"{path}: another process writes it; wait until it ends, or stop it")
        time.sleep(0.1)
    return number


# ---- asking


def key_of(generator: str, request: Request) -> str:
    """What the answer of a generator to a request is kept under."""
    return hashing.digest(generator, request.digest)


class _Calls:
    """What a generator tells goes into the journal; each attempt is allowed first."""

    def __init__(
        self,
        journal: Journal,
        generator: str,
        requests: Sequence[Request],
        budget: Budget,
        goes_on: Callable[[], bool],
    ) -> None:
        self.journal, self.generator, self.requests = journal, generator, requests
        self.budget, self.goes_on = budget, goes_on
        self.attempts: dict[int, int] = {}
        self._settled = threading.Condition()
        self._reserved: dict[int, int] = {}  # tokens that a call in flight may take
        self._spent = journal.spent() if budget.tokens else 0

    def check(self) -> None:
        if not self.goes_on():
            raise RunFailed("nobody waits for the answers any more; the same command goes on")

    def sending(self, i: int) -> None:
        self.check()
        free = shutil.disk_usage(self.journal.path.parent).free
        if free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.journal.path))
        request = self.requests[i]
        self._reserve(i, request.most_tokens)
        try:
            self.attempts[i] = self.journal.sending(
                key_of(self.generator, request), self.generator, request
            )
        except BaseException:
            self._settle(i, 0)
            raise

    def _reserve(self, i: int, most: int) -> None:
        """Keep room in the budget, once calls in flight are settled; RunFailed where there is
        none."""
        with self._settled:
            while self.budget.tokens and self._spent + most > self.budget.tokens - sum(
                self._reserved.values()
            ):
                if not self._reserved:
                    raise RunFailed(
                        f"the budget of {self.budget.tokens:,} tokens has no room for another "
                        f"call: {self._spent:,} are spent; raise it, and the same command goes on"
                    )
                self._settled.wait(0.2)
                self.check()
            self._reserved[i] = most

    def _settle(self, i: int, tokens: int) -> None:
        with self._settled:
            if self._reserved.pop(i, None) is not None:
                self._spent += tokens
            self._settled.notify_all()

    def refused(self, i: int, why: str, paid: bool) -> None:
        tokens = self.requests[i].most_tokens if paid else 0
        try:
            self.journal.refused(self.attempts[i], why, tokens)
        finally:
            self._settle(i, tokens)

    def answered(self, i: int, completion: Completion) -> None:
        request = self.requests[i]
        counts = completion.prompt_tokens, completion.completion_tokens
        tokens = 0 if completion.error else request.most_tokens if None in counts else sum(counts)
        key = key_of(self.generator, request)
        try:
            self.journal.answered(self.attempts[i], key, completion, tokens)
        finally:
            self._settle(i, tokens)


def ask(
    journal: Journal,
    generator: Generator,
    requests: Sequence[Request],
    budget: Budget | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> list[Completion]:
    """The answer to each request; those that the journal lacks are asked for. Equal requests are
    one.

    goes_on: asked before each attempt; false ends the work when what is in flight has come.
    """
    keys = [key_of(generator.name, r) for r in requests]
    missing = {k: r for k, r in zip(keys, requests, strict=True) if journal.completion(k) is None}
    if lost := journal.lost(list(missing)):
        say(
            f"{journal.path}: {lost} calls were in flight when a process was killed, and their "
            "answers are lost: they are asked again"
        )
    if missing:
        asked = list(missing.values())
        calls = _Calls(journal, generator.name, asked, budget or Budget(), goes_on)
        generator.complete(asked, calls)
    return read(journal, generator.name, requests)


def read(journal: Journal, generator: str, requests: Sequence[Request]) -> list[Completion]:
    """The answers that a journal holds; RunFailed where one is missing."""
    out = []
    for request in requests:
        answer = journal.completion(key_of(generator, request))
        if answer is None:
            raise RunFailed(f"{journal.path} holds no answer to request {request.digest}")
        out.append(answer)
    return out


def recorded(path: Path | str, name: str = "") -> Recorded:
    """The answers of a journal as a generator; of several generators in it, the one named."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no journal is there")
    with Journal(path, reads_only=True) as journal:
        rows = list(journal.every())
    names = sorted({generator for generator, *_ in rows})
    if not name and len(names) != 1:
        raise UserError(f"{path} holds answers of {names or 'nobody'}: name one of them")
    name = name or names[0]
    if name not in names:
        raise UserError(f"{path} holds no answers of {name!r}, but of {names}")
    return Recorded(name, {r.digest: answer for g, r, answer in rows if g == name})
