# SPDX-License-Identifier: Apache-2.0
"""`itx generate`: answers to prompts, or a conversation in the terminal."""

import argparse
import dataclasses
import functools
from argparse import Namespace

from itx.commands.arguments import BASE, command
from itx.commands.opened import opened
from itx.errors import UserError
from itx.eval import terminal
from itx.eval.sampling import Sampling
from itx.storage import local, of_run
from itx.stored_run import here

# {field of Sampling: (metavar, help)} of the option that sets it
SAMPLING = {
    "temperature": ("T", "default: 0, the best token"),
    "top_k": ("K", "draw from the K best tokens"),
    "top_p": ("P", "draw from the fewest that hold P"),
    "repetition_penalty": ("X", "above 1: less repetition"),
    "beams": ("K", "beam search"),
    "length_penalty": ("X", "of beams; above 1: longer"),
    "seed": ("N", "of what is drawn"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = command(parser, generate).add_argument
    option(
        "run",
        type=of_run,
        help="a run folder or RUN/checkpoints/STEP, or its URL in a store; a Hugging Face folder, "
        "a GGUF file, or one that was imported; an adapter's folder as PEFT writes it",
    )
    option("--prompt", action="append", help="may be given several times; \\n in it is a new line")
    option(
        "--prompts",
        type=local,
        metavar="FILE",
        help="one per line; in a .jsonl file {prompt} or {messages}",
    )
    option(
        "--system",
        default="",
        metavar="TEXT",
        help="what a conversation stands under; default: the run's data.system",
    )
    option("--raw", action="store_true", help="the run's chat template is not put around prompts")
    option("--max_new_tokens", type=int, default=64, metavar="N")
    option(
        "--context",
        type=int,
        metavar="N",
        help="most tokens; default: the run's data.sequence_length",
    )
    option(
        "--stop", action="append", metavar="TEXT", help="an answer ends before it; several times"
    )
    for f in dataclasses.fields(Sampling):
        metavar, help = SAMPLING[f.name]
        option(f"--{f.name}", type=f.type, default=f.default, metavar=metavar, help=help)
    option("--step", type=int, help="default: the newest checkpoint")
    option("--base", type=local, default="", metavar="MODEL", help=BASE)


def generate(args: Namespace) -> tuple[list[dict], int]:
    if args.prompt and args.prompts:
        raise UserError("--prompt or --prompts, not both")
    for name in ("max_new_tokens", "context"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    how = Sampling(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Sampling)})
    if args.prompts:
        conversations = terminal.read_prompts(args.prompts)
    else:
        prompts = map(terminal.unescaped, args.prompt or ())
        conversations = [[terminal.message(p, "--prompt")] for p in prompts]
    model = opened(
        here(args.run), args.base, args.step, args.context, functools.partial(_check_system, args)
    )
    template = "" if args.raw else model.template
    told = args.system or (model.system if template else "")
    system = [terminal.message(told, "--system", "system")] if told else []
    stop = tuple(map(terminal.unescaped, args.stop or ()))
    ready = terminal.Run(model.runner, model.vocabulary, template, args.max_new_tokens, how, stop)
    if not conversations:
        return terminal.converse(ready, told), 0
    for messages in conversations:
        if messages[0]["role"] != "system":
            messages[:0] = system
    return terminal.several(ready, conversations), 0


def _check_system(args: Namespace, template: str, of_run: bool) -> None:
    if args.system and (args.raw or not template):
        why = "this model has no chat template, and"
        if of_run:
            why = "this run was not trained on conversations, and"
        why = "with --raw" if args.raw else why
        raise UserError(f"--system: {why} a prompt is asked as it is")
