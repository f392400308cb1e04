# SPDX-License-Identifier: Apache-2.0
"""`itx generate`: answers to prompts, or a conversation in the terminal."""

import argparse
import dataclasses
from argparse import Namespace

from itx import pretrained, restore
from itx.commands.arguments import BASE, command
from itx.data import verify
from itx.data.vocabulary import Vocabulary
from itx.errors import UserError
from itx.eval import terminal
from itx.eval.runner import Runner
from itx.eval.sampling import Sampling
from itx.runs import base_step, chosen_step, open_run, read_lock, run_config, step_of
from itx.storage import local

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
        type=local,
        help="a run folder or RUN/checkpoints/STEP; a Hugging Face folder, a GGUF file, or one "
        "that was imported; an adapter's folder as PEFT writes it",
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
    runner, vocabulary, template, told = opened(args)
    system = [terminal.message(told, "--system", "system")] if told else []
    stop = tuple(map(terminal.unescaped, args.stop or ()))
    ready = terminal.Run(runner, vocabulary, template, args.max_new_tokens, how, stop)
    if not conversations:
        return terminal.converse(ready, told), 0
    for messages in conversations:
        if messages[0]["role"] != "system":
            messages[:0] = system
    return terminal.several(ready, conversations), 0


def opened(args: Namespace) -> tuple[Runner, Vocabulary, str, str]:
    """The model that is named, its vocabulary, the chat template to ask it through, and what its
    system says."""
    asked = pretrained.asked(args.run, args.base)
    begin = pretrained.untrained(asked.model)
    told = ""
    if begin is not None:
        if args.step:
            raise UserError(f"--step {args.step}: {asked.model} holds one model, and no steps")
        runner, vocabulary, template = restore.load_untrained(begin)
        _check_system(args, template, "this model has no chat template, and")
        context = args.context or runner.loaded.context
    else:
        path, step = step_of(asked.model, args.step)
        run = open_run(path)
        config, lock = run_config(run), read_lock(run)
        template = lock.get("chat", "")
        told = lock.get("system", "")
        _check_system(args, template, "this run was not trained on conversations, and")
        step = base_step(run, step) if asked.adapter else chosen_step(run, step)
        runner = restore.load_model(run, config, lock, step)
        vocabulary = verify.vocabulary_of_run(run.vocab_model, lock)
        context = args.context or config.data.sequence_length
    runner = Runner(dataclasses.replace(runner.loaded, context=context))
    if asked.adapter:
        runner = restore.with_adapter(runner, asked.adapter)
    template = "" if args.raw else template
    return runner, vocabulary, template, args.system or (told if template else "")


def _check_system(args: Namespace, template: str, why: str) -> None:
    if args.system and (args.raw or not template):
        why = "with --raw" if args.raw else why
        raise UserError(f"--system: {why} a prompt is asked as it is")
