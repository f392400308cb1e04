# SPDX-License-Identifier: Apache-2.0
"""The `itx` command: finds the command's file, parses, and writes the facts where --json says.

Exit codes: 0 done, 1 a check or the run failed or the machine had no room, 2 a mistake in usage,
config or data.
"""

import argparse
import importlib
import os
import sys
from typing import NoReturn

# Before any import of etils or JAX: remote paths without TensorFlow
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its notice ignores the level above

from itx import accelerators, command_line, malloc, processes, shipped, storage, versions
from itx.errors import UserError

# Only the file of the command that was typed is imported: JAX takes a second, TensorFlow three.
COMMANDS = {
    "train": ("train", "build, audit, tune, evaluate, report; the same command again resumes"),
    "plan": ("plan", "whether a run fits named TPUs, and what it takes: compiled without one"),
    "sweep": ("sweep", "a grid of runs, and the settings chosen by held-in dev scores"),
    "data": ("data", "build, audit and print training data"),
    "config": ("config", "every setting: meaning, default, kind and the values it takes"),
    "recipes": ("recipes", "the recipes that come with itx, and the models that they begin from"),
    "tasks": ("tasks", "list, show and check registered tasks"),
    "eval": ("evaluate", "score a run's checkpoint, or any model on named tasks"),
    "analyze": ("analyze", "where a run fails on dev, and what may be done about it"),
    "compare": ("compare", "runs side by side: scores, answers, settings and data that differ"),
    "runs": ("runs", "look after run folders"),
    "doctor": ("doctor", "whether what a run rests on holds for your config: 3 minutes on a CPU"),
    "soup": ("soup", "the mean of runs' checkpoints, and what lies between it and the base"),
    "generate": ("generate", "answer prompts; without any, a conversation in the terminal"),
    "serve": ("serve", "answer requests over HTTP, as OpenAI's interface has them"),
    "convert": ("convert", "Hugging Face folders in and out, GGUF files in"),
    "create": ("create", "new rows by a model or by hand, and what is wrong with those there are"),
    "study": ("study", "a question about tuning, asked of several runs in a small world"),
    "loop": ("loop", "tune, analyse, refine, and tune again while dev gets better"),
}

# These compute nothing on a device, so that it does not matter which there are.
WITHOUT_DEVICES = ("plan", "config", "recipes", "tasks", "runs", "--version", "--help", "-h")


def _parser(typed: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; only the one that was typed knows what it takes."""
    parser = command_line.Parser(
        prog="itx", description="Instruction tuning in JAX.", allow_abbrev=False
    )
    parser.add_argument("--version", action="store_true", help="print it, and the code's, and stop")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        if name == typed:
            importlib.import_module(f"itx.commands.{module}").add_arguments(command)
    return parser


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        # an ASCII terminal shows other characters as \\u escapes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if accelerators.choose_cpu_beside_libtpu() and words[:1] and words[0] not in WITHOUT_DEVICES:
        print(f"itx: {accelerators.CHOSEN}", file=sys.stderr)
    sys.path.insert(0, os.getcwd())  # tasks/ and data.modules of the folder one stands in
    shipped.put_tasks_on_path()
    return processes.as_command(lambda: _run(words), conversation=words[:1] == ["generate"])


def _run(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(versions.in_a_line())
        return 0
    parser = _parser(words[0] if words else None)
    args, rest = parser.parse_known_args(command_line.joined(words))
    takes_overrides = hasattr(args, "quick")
    args.overrides = [
        a for a in rest if takes_overrides and a.startswith("--") and "." in a.split("=")[0]
    ]
    unknown = [a for a in rest if a not in args.overrides]
    if unknown:
        raise UserError(command_line.refusal(unknown[0], args))
    facts, code = args.work(args)
    if args.json and facts is not None:
        storage.write_json(args.json, facts)
    return code


def run() -> NoReturn:
    """`main` as a process: a signal's exit code is not held up by threads that still work."""
    malloc.start_with_huge_pages()
    processes.one_command()
    try:
        code = main()
    except SystemExit as e:
        code = e.code
    if code in (130, 143):
        processes.exits_within(processes.GRACE_SECONDS, code)
    sys.exit(code)


if __name__ == "__main__":
    run()
