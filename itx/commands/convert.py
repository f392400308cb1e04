# SPDX-License-Identifier: Apache-2.0
"""`itx convert import | export`: Hugging Face folders and PEFT adapters in and out."""

import argparse
import math
from argparse import Namespace
from pathlib import Path

from itx import convert, peft_files, pretrained
from itx.commands.arguments import BASE, group
from itx.errors import UserError
from itx.models import gguf_folder
from itx.runs import run_config
from itx.storage import local, of_run
from itx.stored_run import here
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    bring = add(
        "import",
        "a Hugging Face folder or a GGUF file as a run folder that model.pretrained can name",
        convert_import,
    )
    bring.add_argument(
        "hf_dir",
        type=local,
        help="config.json, safetensors and tokenizer, as save_pretrained writes them; or FILE.gguf",
    )
    bring.add_argument("out", type=local, help="a new folder")
    give = add(
        "export",
        "a model as a folder that transformers loads, or a run's adapter as one of peft's",
        convert_export,
    )
    give.add_argument(
        "run",
        type=of_run,
        help="a run folder (its newest checkpoint) or RUN/checkpoints/STEP, or its URL in a store; "
        "a Hugging Face folder, a GGUF file, or an adapter's folder with --merge",
    )
    give.add_argument("out_dir", type=local, help="a new folder")
    give.add_argument(
        "--merge",
        action="store_true",
        help="put an adapter into the weights and export all of them",
    )
    give.add_argument(
        "--dtype", default="", help="of the weights; default: as the run began from, else float32"
    )
    give.add_argument("--base", type=local, default="", metavar="MODEL", help=BASE)
    give.add_argument("--shard_gb", type=float, default=5.0, metavar="GB", help="most of one file")


def convert_import(args: Namespace) -> tuple[dict, int]:
    facts = convert.import_to(args.hf_dir, args.out)
    line = f"{facts['family']}: {facts['parameters']:,} parameters, "
    line += f"{facts['stored'] or facts['dtype']} there, "
    line += f"to {facts['folder']}"
    if facts["left_out"]:
        parts = (f"{n} × {name}" for name, n in facts["left_out"].items())
        line += f"; left out: {', '.join(parts)}"
    if facts["passed_over"]:
        line += f"; passed over in its config.json: {visible(', '.join(facts['passed_over']))}"
    print(line)
    return facts, 0


def convert_export(args: Namespace) -> tuple[dict, int]:
    if not 0 < args.shard_gb < math.inf:
        raise UserError(f"--shard_gb {args.shard_gb}: must be above 0")
    args.run = here(args.run)
    asked = pretrained.asked(args.run, args.base)
    if asked.adapter and not args.merge:
        raise UserError(
            f"{args.run} is an adapter as PEFT loads it already; --merge puts it into the weights "
            f"of {asked.model}"
        )
    if pretrained.has_adapter(asked.model) and not args.merge:
        return _export_adapter(args), 0
    shard_bytes = int(args.shard_gb * 1e9)
    facts = convert.export(asked.model, args.out_dir, args.dtype, shard_bytes, asked.adapter)
    _print_export(facts, facts["family"], f"as {facts['dtype']}")
    return facts, 0


def _export_adapter(args: Namespace) -> dict:
    if args.dtype:
        raise UserError(
            "--dtype: an adapter is written as it was trained, in float32; with --merge it is the "
            "model's"
        )
    facts = convert.export_adapter(args.run, args.out_dir)
    _print_export(facts, facts["method"], f"over {facts['base']}")
    if gguf_folder.is_gguf(Path(facts["base"])):
        print(
            f"PEFT loads it over a folder, and its base is a GGUF file: `itx convert export "
            f"{facts['base']} FOLDER` writes one to name as base_model_name_or_path; --merge "
            "writes base and adapter together"
        )
    config = run_config(pretrained.find(args.run).run)
    facts["same_in_peft"] = same = peft_files.same_in_peft(config.model, config.peft)
    if same is not None:
        print(
            f"beyond {same:,} tokens of prompt and answer it computes something else in PEFT: "
            f"there the window of {config.model.sliding_window:,} tokens hides virtual tokens, "
            "here they are always seen"
        )
    return facts


def _print_export(facts: dict, what: str, how: str) -> None:
    step = "" if facts["step"] is None else f" of step {facts['step']}"
    print(
        f"{what}: {facts['parameters']:,} parameters{step} {how}, "
        f"to {facts['folder']}: {', '.join(facts['files'])}"
    )
