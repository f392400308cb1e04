# SPDX-License-Identifier: Apache-2.0
"""The folder of a model that `itx eval` scores and that no run of ours made.

It is laid out as a run's: config.json, data.lock.json without a task, the vocabulary, and the
scores of step 0, or of an adapter, in eval/. It belongs to one model and one form of prompts, so
that scores of a second call stand beside those of the first, and all of them compare.
"""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from itx import begin as begins
from itx import config as configs
from itx import config_check, hashing, pretrained, storage
from itx.config import DataConfig, EvalConfig, ModelConfig, RunConfig, TrainConfig
from itx.data.types import Lock
from itx.errors import UserError
from itx.models import gguf_folder
from itx.pretrained import Asked, Begin
from itx.runs import RunFolder, read_config, run_config
from itx.versions import code_version, versions

# A row's tokens where a model's config.json does not say how many it takes: a T5's does not.
ROW_TOKENS = 1024
ALL_EXAMPLES = 10**9
# Settings that shape no prompt and no answer, or whose files `fingerprint` tells, or that shape
# each row alone, whose predictions tell them.
FREE = (
    *("data.root", "data.cache_dir", "data.modules", "data.eval_examples"),
    *("model.pretrained", "data.vocab", "data.chat_template"),
)
# Files of a Hugging Face folder that are read
READ = (".safetensors", ".json", ".model", ".jinja", ".txt")


def settled(
    args: Namespace, begin: Begin, asked: Asked, modules: tuple[str, ...]
) -> tuple[RunFolder, RunConfig]:
    """Where a model's scores stand, and the config that it is asked by; UserError where the folder
    is another model's or another form's."""
    run = RunFolder(Path(args.out or Path("runs") / f"eval-{name_of(args.run)}"))
    about = storage.read_object(run.config_json, absent={})
    if "fingerprint" not in about and (
        run.path.is_file() or run.path.is_dir() and any(run.path.iterdir())
    ):
        raise UserError(f"--out: {run.path} is there and is no folder of scores; give another")
    most = EvalConfig().max_examples if args.max_examples is None else args.max_examples
    given = {k: v for k in ("prompt_format", "cache_dir", "root", "system") if (v := vars(args)[k])}
    data = DataConfig(
        modules=tuple(dict.fromkeys([*DataConfig().modules, *modules])),
        sequence_length=pretrained.context(begin) or ROW_TOKENS,
        eval_examples=max(DataConfig().eval_examples, most) if most else ALL_EXAMPLES,
        **given,
    )
    # Without a step to train, what is scored before tuning is all there is to compare.
    config = RunConfig(ModelConfig(pretrained=asked.model), data, train=TrainConfig(steps=0))
    origin = dict.fromkeys(configs.fields_by_name(), "default")
    config, _ = pretrained.settle(config, origin)
    turns = config.data.prompt_format == "chat"
    if turns and not config.data.chat_template:
        raise UserError(
            f"--prompt_format=chat: {asked.model} has no chat template; it is asked by plain"
        )
    if config.data.system and not turns:
        raise UserError(f"--system: {asked.model} is asked without turns, and has no system")
    config = configs.changed(config, "data", prompt_format="chat" if turns else "plain")
    split = args.split or own_split(run, config)
    config = configs.changed(config, "eval", split=split, max_examples=most)
    config_check.check(config)
    _check_same(run, config)
    return run, config


def name_of(path: str) -> str:
    """What a model's folder of scores is called after."""
    name = Path(path).resolve()
    return name.stem if gguf_folder.is_gguf(name) else name.name


def own_split(run: RunFolder, config: RunConfig) -> str:
    """The split whose scores are the folder's own: that of its first call."""
    return (run_config(run) if run.config_json.is_file() else config).eval.split


def fingerprint(name: str) -> str:
    """A hash of what is read of a model: other weights are another model, wherever they stand."""
    begin = pretrained.find(name)
    if file := gguf_folder.source(begin.folder):
        return hashing.file_sha256(file)
    held = begin.folder.rglob("*") if begin.run else begin.folder.iterdir()
    files = [p for p in sorted(held) if p.is_file() and (begin.run or p.suffix in READ)]
    return hashing.digest(*(f"{p.name}:{hashing.file_sha256(p)}" for p in files))


def _check_same(run: RunFolder, config: RunConfig) -> None:
    if not run.is_begun():
        return
    about = read_config(run)
    old, new = (configs.flatten(c) for c in (about["config"], configs.to_dict(config)))
    for name, value in new.items():
        if name not in FREE and not name.startswith("eval.") and old.get(name) != value:
            raise UserError(
                f"{run.path} holds scores under another {name}: {old.get(name)!r}, now {value!r}; "
                "give another --out"
            )
    if about["fingerprint"] != fingerprint(config.model.pretrained):
        raise UserError(
            f"{run.path} holds scores of other files that stood in {config.model.pretrained}; give "
            "another --out"
        )


def write(run: RunFolder, config: RunConfig, lock: Lock) -> None:
    """Begin the folder, unless it is there."""
    if run.config_json.is_file() and run.lock_json.is_file():
        return
    about = {
        "command": shlex.join(["itx", *sys.argv[1:]]),
        "config": configs.to_dict(config),
        "origin": {},
        "versions": versions(),
        "code": code_version(),
        "fingerprint": fingerprint(config.model.pretrained),
    }
    storage.write_json(run.config_json, storage.sealed(about))
    begins.keep_data(run, config, lock)
