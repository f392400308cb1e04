# SPDX-License-Identifier: Apache-2.0
"""`itx serve`: a model behind OpenAI's interface."""

import argparse
import functools
import math
import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from itx import processes
from itx.commands.arguments import BASE, command
from itx.commands.opened import Opened, opened
from itx.errors import RunFailed, UserError
from itx.eval import terminal
from itx.serve.fields import Reader
from itx.serve.lanes import Sizes
from itx.storage import local
from itx.text import say

KEY_VARIABLE = "ITX_SERVE_KEY"
UNBOUNDED_ANSWER = 1024  # most tokens of an answer that no context bounds
UNBOUNDED_CONTEXT = (
    16384  # most tokens of a prompt and its answer, where the model names no context
)
LOOK_SECONDS = 0.2  # between two looks for a signal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, serve).add_argument
    option("model", type=local, help="as `itx generate` takes it")
    option("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    option("--port", type=int, default=8000, help="default: 8000; 0: one that is free")
    option("--name", default="", help="of the model, in requests; default: its folder's or file's")
    option(
        "--key_variable",
        default="",
        metavar="NAME",
        help=f"environment variable with the key that clients must send; default: {KEY_VARIABLE}, "
        "if it is set",
    )
    option(
        "--rows",
        default="1,8,32",
        metavar="N,N,…",
        help="requests that are answered together; each number is a compilation (default: 1,8,32)",
    )
    option("--queue", type=int, default=256, metavar="N", help="requests that may wait")
    option(
        "--max_new_tokens",
        type=int,
        default=0,
        metavar="N",
        help="most tokens of an answer; default: what the context has room for",
    )
    option("--context", type=int, metavar="N", help="most tokens; default: as `itx generate`")
    option("--cache_gib", type=float, default=4.0, help="memory for the keys and values of a lane")
    option("--max_body_mib", type=float, default=1.0, help="most that a request may hold")
    option(
        "--grace", type=float, default=30.0, help="seconds for what is being answered at the end"
    )
    option("--step", type=int, help="default: the newest checkpoint")
    option("--base", type=local, default="", metavar="MODEL", help=BASE)


def serve(args: Namespace) -> tuple[dict, int]:
    try:
        from itx.serve import serving
    except ImportError as e:
        raise UserError(f"itx serve needs {e.name}: pip install 'itx[serve]'") from e
    sizes, key = _sizes(args), _key(args)
    with serving.listening(args.host, args.port) as listener:
        model = opened(args.model, args.base, args.step, args.context)
        name = args.name or Path(args.model).resolve().name
        reader = _reader(args, model, name)
        access = serving.access(args.host, key, int(args.max_body_mib * 2**20))
        server = serving.Serving(reader, sizes(_slots(reader)), args.queue, access, listener)
        server.start()
        server.warm()
        if not key and not serving.is_loopback(args.host):
            say(f"anybody who reaches {args.host} may ask: set ${KEY_VARIABLE} to ask for a key")
        print(f"{name} answers at {server.address}/v1; Ctrl-C ends it", flush=True)
        with processes.Interrupts() as interrupts:
            while server.alive and not interrupts.seen:
                time.sleep(LOOK_SECONDS)
            facts = {"model": name, **server.stop(args.grace)}
            code = interrupts.looked()
    if not code:
        raise RunFailed(f"the server ended by itself; {server.said()}")
    print(f"{name} {server.said()}")
    return facts, code


def _sizes(args: Namespace) -> Callable[[int], Sizes]:
    """Sizes of lanes, once it is known how long a request may be."""
    for name in ("queue", "max_new_tokens"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: must not be negative")
    for name in ("cache_gib", "max_body_mib"):
        if not 0 < getattr(args, name) < 2**20:
            raise UserError(f"--{name} {getattr(args, name)}: must be above 0")
    if not 0 <= args.grace < math.inf:
        raise UserError(f"--grace {args.grace}: must not be negative")
    if args.context is not None and args.context < 1:
        raise UserError(f"--context {args.context}: must be at least 1")
    words = args.rows.split(",")
    rungs = tuple(int(w) for w in words if w.isascii() and w.isdigit())
    if len(rungs) != len(words) or 0 in rungs or list(rungs) != sorted(set(rungs)):
        raise UserError(f"--rows {args.rows}: numbers of at least 1 that rise, such as 1,8,32")
    return functools.partial(Sizes, rungs, int(args.cache_gib * 2**30))


def _key(args: Namespace) -> str:
    """What clients must send, from the environment alone."""
    key = os.environ.get(args.key_variable or KEY_VARIABLE, "")
    if args.key_variable and not key:
        raise UserError(f"--key_variable {args.key_variable}: ${args.key_variable} is not set")
    if not key.isascii() or not key.isprintable() or key != key.strip():
        named = args.key_variable or KEY_VARIABLE
        raise UserError(f"${named} holds what no HTTP header can: give printable ASCII")
    return key


def _reader(args: Namespace, model: Opened, name: str) -> Reader:
    """What reads requests for a model."""
    loaded = model.runner.loaded
    bounded = loaded.context and loaded.model.architecture == "decoder"
    most = args.max_new_tokens or (loaded.context if bounded else UNBOUNDED_ANSWER)
    longest = loaded.context or UNBOUNDED_CONTEXT
    run = terminal.Run(model.runner, model.vocabulary, model.template)
    return Reader(run, name, model.system if model.template else "", most, longest)


def _slots(reader: Reader) -> int:
    """Places of a decoder's cache that a request may need."""
    both = reader.run.runner.loaded.model.architecture == "encoder_decoder"
    return reader.max_new_tokens if both else reader.longest
