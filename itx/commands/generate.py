# SPDX-License-Identifier: Apache-2.0
"""`itx generate`: answers to prompts, or a conversation in the terminal."""

import argparse
import dataclasses
from argparse import Namespace

from itx import restore
from itx.commands.arguments import command
from itx.data import verify
from itx.errors import UserError
from itx.eval import terminal
from itx.eval.runner import Runner
from itx.eval.sampling import Sampling
from itx.runs import chosen_step, open_run, read_lock, run_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command(parser, generate)
    parser.add_argument("run", help="a run folder")
    parser.add_argument(
        "--prompt", action="append", help="may be given several times; \\n in it is a new line"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="one per line; in a .jsonl file {prompt} or {messages}"
    )
    parser.add_argument(
        "--system", default="", metavar="TEXT", help="what a conversation stands under"
    )
    parser.add_argument(
        "--raw", action="store_true", help="the run's chat template is not put around prompts"
    )
    parser.add_argument("--max_new_tokens", type=int, default=64, metavar="N")
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="most tokens; default: the run's data.sequence_length",
    )
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="an answer ends before it; several times"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, the best token")
    parser.add_argument(
        "--top_k", type=int, default=0, metavar="K", help="draw from the K best tokens"
    )
    parser.add_argument(
        "--top_p", type=float, default=1.0, metavar="P", help="draw from the fewest that hold P"
    )
    parser.add_argument(
        "--repetition_penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1: less repetition",
    )
    parser.add_argument("--beams", type=int, default=1, metavar="K", help="beam search")
    parser.add_argument(
        "--length_penalty", type=float, default=1.0, metavar="X", help="of beams; above 1: longer"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--step", type=int, help="default: the newest checkpoint")


def generate(args: Namespace) -> tuple[list[dict], int]:
    if args.prompt and args.prompts:
        raise UserError("--prompt or --prompts, not both")
    for name in ("max_new_tokens", "context"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    run = open_run(args.run)
    config = run_config(run)
    how = Sampling(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Sampling)})
    lock = read_lock(run)
    template = "" if args.raw else lock.get("chat", "")
    if args.system and not template:
        raise UserError("--system: " + ("with --raw" if args.raw else "this run was not trained on conversations, and")
                        + " a prompt is asked as it is")  # fmt: skip
    asked = [[terminal.message(terminal.unescaped(p), "--prompt")] for p in args.prompt or ()]
    asked = terminal.read_prompts(args.prompts) if args.prompts else asked
    head = [terminal.message(args.system, "--system", "system")] if args.system else []
    runner = restore.load_model(run, config, lock, chosen_step(run, args.step))
    runner = Runner(
        dataclasses.replace(runner.loaded, context=args.context or config.data.sequence_length)
    )
    stop = tuple(map(terminal.unescaped, args.stop or ()))
    ready = terminal.Run(
        runner,
        verify.vocabulary_of_run(run.vocab_model, lock),
        template,
        args.max_new_tokens,
        how,
        stop,
    )
    if asked:
        out = terminal.several(
            ready, [m if m[0]["role"] == "system" else [*head, *m] for m in asked]
        )
    else:
        out = terminal.converse(ready, args.system)
    return out, 0
