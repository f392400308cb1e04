# SPDX-License-Identifier: Apache-2.0
"""`itx convert import | export`: Hugging Face folders and PEFT adapters in and out."""

import argparse
import math
from argparse import Namespace

from itx import convert, peft, pretrained
from itx.commands.arguments import group
from itx.errors import UserError
from itx.runs import run_config
from itx.text import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    bring = add(
        "import",
        "a Hugging Face folder as a run folder that model.pretrained can name",
        convert_import,
    )
    bring.add_argument(
        "hf_dir", help="config.json, safetensors and tokenizer, as save_pretrained writes them"
    )
    bring.add_argument("out", help="a new folder")
    give = add(
        "export",
        "a run's model as a folder that transformers loads, or its adapter as one of peft's",
        convert_export,
    )
    give.add_argument("run", help="a run folder (its newest checkpoint) or RUN/checkpoints/STEP")
    give.add_argument("out_dir", help="a new folder")
    give.add_argument(
        "--merge",
        action="store_true",
        help="put an adapter into the weights and export all of them",
    )
    give.add_argument(
        "--dtype", default="", help="of the weights; default: as the run began from, else float32"
    )
    give.add_argument("--shard_gb", type=float, default=5.0, metavar="GB", help="most of one file")


def convert_import(args: Namespace) -> tuple[dict, int]:
    found = convert.import_to(args.hf_dir, args.out)
    left_out = ", ".join(f"{n} × {name}" for name, n in found["left_out"].items())
    print(f"{found['family']}: {found['parameters']:,} parameters, {found['dtype']} there, to {found['folder']}"
          + (f"; left out: {left_out}" if left_out else "")
          + (f"; passed over in its config.json: {visible(', '.join(found['passed_over']))}" if found["passed_over"] else ""))  # fmt: skip
    return found, 0


def convert_export(args: Namespace) -> tuple[dict, int]:
    if not 0 < args.shard_gb < math.inf:
        raise UserError(f"--shard_gb {args.shard_gb}: must be above 0")
    if pretrained.has_adapter(args.run) and not args.merge:
        if args.dtype:
            raise UserError(
                "--dtype: an adapter is written as it was trained, in float32; with --merge it is the model's"
            )
        found = convert.export_adapter(args.run, args.out_dir)
        print(f"{found['method']}: {found['parameters']:,} parameters of step {found['step']} over {found['base']}, "
              f"to {found['folder']}: {', '.join(found['files'])}")  # fmt: skip
        config = run_config(pretrained.find(args.run).run)
        found["same_in_peft"] = same = peft.same_in_peft(config.model, config.peft)
        if same is not None:
            print(f"beyond {same:,} tokens of prompt and answer it computes something else in PEFT: there the window of "
                  f"{config.model.sliding_window:,} tokens hides virtual tokens, here they are always seen")  # fmt: skip
        return found, 0
    found = convert.export(args.run, args.out_dir, args.dtype, int(args.shard_gb * 1e9))
    print(f"{found['family']}: {found['parameters']:,} parameters of step {found['step']} as {found['dtype']}, "
          f"to {found['folder']}: {', '.join(found['files'])}")  # fmt: skip
    return found, 0
