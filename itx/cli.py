# SPDX-License-Identifier: Apache-2.0
"""The `itx` command: parses, and imports what one command needs.

Exit codes: 0 done, 1 a check or the run failed or the machine had no room, 2 a mistake in usage, config or data.
"""

import argparse
import os
import sys
from typing import NoReturn

# Before any import of etils or JAX: remote paths without TensorFlow
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its notice ignores the level above


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="itx", description="Instruction tuning in JAX.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(to, name: str, help: str, *, config: bool = False) -> argparse.ArgumentParser:
        p = to.add_parser(name, help=help, description=help, allow_abbrev=False)
        p.add_argument("--json", metavar="FILE", help="also write the same facts as JSON")
        if config:
            p.add_argument("config", help="a recipe, e.g. configs/quickstart.py; override its values with --a.b=c")
            p.add_argument("--quick", action="store_true", help="the recipe's quick variant")
        return p

    train = add(commands, "train", "build, audit, tune, evaluate, report; the same command again resumes", config=True)
    train.add_argument("--run_dir", help="default: runs/<config>[-quick]")
    train.add_argument("--lock", help="train from this data lock and its cache; nothing is built")
    train.add_argument("--dry-run", action="store_true", help="print what trains and what it takes, and stop")
    train.add_argument("--restarts", type=int, default=0, metavar="N", help="start again up to N times after a crash")

    data = commands.add_parser("data", help="build, audit and print training data").add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND"
    )
    build = add(data, "build", "tokenise everything a run needs; prints the lock's path", config=True)
    build.add_argument("--dry-run", action="store_true", help="print what it would write and take, and stop")
    build.add_argument(
        "--keep-damaged", action="store_true", help="a damaged folder of the cache is an error; else it is made again"
    )
    add(data, "audit", "what is trained on, what was skipped and why; exit 1 where it must not be", config=True)
    show = add(data, "show", "rendered examples, the tokens under the loss marked", config=True)
    show.add_argument("--task", help="only this task")
    show.add_argument("--examples", type=int, default=1, metavar="N", help="of each task")
    batch = add(data, "batch", "the batch of one step", config=True)
    batch.add_argument("--step", type=int, default=0)
    batch.add_argument("--rows", type=int, default=4, metavar="N", help="print the first N rows")

    tasks = commands.add_parser("tasks", help="list, show and check registered tasks").add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND"
    )
    for name, help in (("ls", "every task and mixture"), ("show", "one task and its renderings"),
                       ("check", "self-checks of templates, options and metrics")):  # fmt: skip
        p = add(tasks, name, help)
        p.add_argument("name", nargs="?" if name != "show" else None, help="a task, variant or mixture")
        p.add_argument("--modules", default="tasks", help="comma-separated modules that register tasks")
        p.add_argument("--root", default="", help="folder that relative source files stand under (data.root)")
        if name == "check":
            p.add_argument("--download", action="store_true", help="let TFDS download the sets that are not prepared")

    evaluate = add(commands, "eval", "score a run's checkpoint")
    evaluate.add_argument("run", help="a run folder")
    evaluate.add_argument("--step", type=int, help="default: the newest checkpoint")
    evaluate.add_argument(
        "--tasks", help="comma-separated rows of the run, or with the two below any tasks; default: all"
    )
    evaluate.add_argument(
        "--shots", help="numbers of exemplars, e.g. 0,5, from the training split; default: as trained"
    )
    evaluate.add_argument("--split", help="validation or test; default: the run's eval.split")
    evaluate.add_argument("--max_examples", type=int, help="default: the run's eval.max_examples")
    evaluate.add_argument(
        "--adapter", action="append", metavar="FOLDER", help="score this adapter over the run's base; several times"
    )
    evaluate.add_argument("--cache_dir", help="default: the run's data.cache_dir")
    evaluate.add_argument(
        "--modules", default="", help="comma-separated modules whose own metrics may run; a run folder cannot name any"
    )

    runs = commands.add_parser("runs", help="look after run folders").add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND"
    )
    check = add(runs, "check", "read all of a run folder and say what is damaged; exit 1 where something is")
    check.add_argument("run", help="a run folder")

    generate = add(commands, "generate", "answer prompts; without any, a conversation in the terminal")
    generate.add_argument("run", help="a run folder")
    generate.add_argument("--prompt", action="append", help="may be given several times; \\n in it is a new line")
    generate.add_argument("--prompts", metavar="FILE", help="one per line; in a .jsonl file {prompt} or {messages}")
    generate.add_argument("--system", default="", metavar="TEXT", help="what a conversation stands under")
    generate.add_argument("--raw", action="store_true", help="the run's chat template is not put around prompts")
    generate.add_argument("--max_new_tokens", type=int, default=64, metavar="N")
    generate.add_argument(
        "--context", type=int, metavar="N", help="most tokens; default: the run's data.sequence_length"
    )
    generate.add_argument("--stop", action="append", metavar="TEXT", help="an answer ends before it; several times")
    generate.add_argument("--temperature", type=float, default=0.0, help="default: 0, the best token")
    generate.add_argument("--top_k", type=int, default=0, metavar="K", help="draw from the K best tokens")
    generate.add_argument("--top_p", type=float, default=1.0, metavar="P", help="draw from the fewest that hold P")
    generate.add_argument("--repetition_penalty", type=float, default=1.0, metavar="X", help="above 1: less repetition")
    generate.add_argument("--beams", type=int, default=1, metavar="K", help="beam search")
    generate.add_argument("--length_penalty", type=float, default=1.0, metavar="X", help="of beams; above 1: longer")
    generate.add_argument("--seed", type=int, default=0, help="of what is drawn")
    generate.add_argument("--step", type=int, help="default: the newest checkpoint")

    convert = commands.add_parser("convert", help="Hugging Face folders in and out").add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND"
    )
    bring = add(convert, "import", "a Hugging Face folder as a run folder that model.pretrained can name")
    bring.add_argument("hf_dir", help="config.json, safetensors and tokenizer, as save_pretrained writes them")
    bring.add_argument("out", help="a new folder")
    give = add(convert, "export", "a run's model as a folder that transformers loads, or its adapter as one of peft's")
    give.add_argument("run", help="a run folder (its newest checkpoint) or RUN/checkpoints/STEP")
    give.add_argument("out_dir", help="a new folder")
    give.add_argument("--merge", action="store_true", help="put an adapter into the weights and export all of them")
    give.add_argument("--dtype", default="", help="of the weights; default: as the run began from, else float32")
    give.add_argument("--shard_gb", type=float, default=5.0, metavar="GB", help="most of one file")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    takes_overrides = hasattr(args, "quick")
    args.overrides = [a for a in rest if a.startswith("--") and "." in a.split("=")[0]] if takes_overrides else []
    unknown = [a for a in rest if a not in args.overrides]
    if unknown:
        print(f"itx: {_unknown(unknown[0], takes_overrides)}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII terminal shows other characters as \\u escapes
            stream.reconfigure(errors="backslashreplace")
    sys.path.insert(0, os.getcwd())  # tasks/ and data.modules of the folder one stands in
    from itx import processes

    def work() -> int:
        _refuse_remote_paths(args)
        from itx import commands

        return commands.COMMANDS[args.command, getattr(args, "subcommand", None)](args)

    return processes.as_command(work, conversation=args.command == "generate")


PATH_ARGUMENTS = ("config", "run", "run_dir", "lock", "cache_dir", "json", "root", "hf_dir", "out", "out_dir")


def _refuse_remote_paths(args: argparse.Namespace) -> None:
    """UserError for a path such as gs://bucket/run, of which a folder named `gs:` would be made here."""
    from itx.errors import UserError
    from itx.storage import is_remote

    overrides = [tuple(text.removeprefix("--").split("=", 1)) for text in args.overrides if "=" in text]
    given = [(f"--{name}", getattr(args, name, None)) for name in PATH_ARGUMENTS]
    given += [(f"--{name}", value) for name, value in overrides]
    for name, value in given:
        if isinstance(value, str) and is_remote(value):
            raise UserError(f"{name} {value}: remote storage is not built yet; give a local path")


def _unknown(word: str, takes_overrides: bool) -> str:
    if takes_overrides and word.startswith("--"):
        from itx.config import fields_by_name
        from itx.errors import did_you_mean

        known = [f"--{n}" for n in fields_by_name()] + ["--quick", "--json", "--run_dir", "--lock"]
        return f"unknown option {word!r}" + did_you_mean(word.split("=")[0], known)
    return f"unknown argument {word!r} (itx COMMAND --help lists what there is)"


def run() -> NoReturn:
    """`main` as a process: a signal's exit code is not held up by threads that still work."""
    try:
        code = main()
    except SystemExit as e:
        code = e.code
    if code in (130, 143):
        from itx import processes

        processes.exits_within(processes.GRACE_SECONDS, code)
    sys.exit(code)


if __name__ == "__main__":
    run()
