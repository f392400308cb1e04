# SPDX-License-Identifier: Apache-2.0
"""What a run may begin from (`model.pretrained`): a Hugging Face folder, by its path or by its name
on the hub (itx/hub.py), a GGUF file, or ours.

One of ours is a run folder (its newest checkpoint), one of its checkpoints (RUN/checkpoints/500),
or what `itx convert import` wrote, which has the same files. It says which model it is, its
vocabulary and its chat template; the recipe says how the model computes and trains. A resumed run
restores its own checkpoint and reads nothing here.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from itx import config_check, hub, peft_files, peft_start, recipe, runs, storage
from itx.config import ModelConfig, RunConfig, changed
from itx.data.vocabulary import FILES, tokenizer_json
from itx.errors import UserError, did_you_mean
from itx.models import families, gguf_folder, hf
from itx.params import embedding_rows
from itx.runs import RunFolder, read_lock, run_config
from itx.text import say


class Begin(NamedTuple):
    """Where a run begins; `run` and `step` are None and 0 for a Hugging Face folder, which may be
    derived of a GGUF file."""

    folder: Path
    run: RunFolder | None = None
    step: int = 0

    @property
    def tokenizer_folder(self) -> Path:
        return self.run.vocab_model.parent if self.run else self.folder

    @property
    def place(self) -> str:
        """What a message calls it."""
        return gguf_folder.shown(self.folder)


def place(name: str) -> Path:
    """The path that a name stands for: itself, or a model's files of the hub, which are fetched."""
    return hub.folder(name)[0] if hub.is_name(name) else Path(name)


def find(name: str) -> Begin:
    """What a path or a name of the hub stands for; UserError if that is no model."""
    folder = place(name)
    if gguf_folder.is_gguf(folder) and folder.is_file():
        return Begin(gguf_folder.folder(folder))
    run = RunFolder(folder)
    ours = bool(run.steps())  # its config.json may be damaged: its checkpoints hold another
    if not ours and hf.is_folder(folder):
        return Begin(folder)
    if not ours and run.config_json.is_file() and "config" not in hf.read_config(folder):
        raise UserError(
            f"{run.config_json} has neither a 'model_type', as Hugging Face's have, nor a run's "
            "'config'"
        )
    run, step = runs.named(folder)
    steps = run.steps()
    if step in steps if step is not None else steps:
        return Begin(folder, run, steps[-1] if step is None else step)
    if run.is_begun():
        known = ", ".join(map(str, steps)) or "none"
        of_step = "" if step is None else f" of step {step}"
        raise UserError(f"{name}: {run.path} has no checkpoint{of_step}; there are: {known}")
    beside = list(folder.parent.iterdir()) if folder.parent.is_dir() else []
    near = [str(p) for p in beside if p.is_dir() or gguf_folder.is_gguf(p)]
    inside = [str(p) for p in sorted(folder.glob(f"*{gguf_folder.SUFFIX}"))]
    if not folder.exists():
        raise UserError(
            f"{name} holds no model: there is no such file or folder"
            + (did_you_mean(name, near) if near else "")
            + " (a relative path begins in the folder that this is called in; `itx recipes fetch "
            "smollm2` gets the model of the recipes of that name)"
        )
    raise UserError(
        f"{name} holds no model: neither a Hugging Face folder (config.json with a model_type), "
        "a GGUF file, nor a run folder"
        + (f"; in it lies {inside[0]}" if inside else did_you_mean(name, near) if near else "")
    )


def untrained(name: str) -> Begin | None:
    """A model that no data of ours were built for: a Hugging Face folder, a GGUF file, or what
    `itx convert import` made of one; None for anything else."""
    folder = place(name)
    run = RunFolder(folder)
    imported = run.steps() == [0] and not run.lock_json.is_file()
    theirs = gguf_folder.is_gguf(folder) or not run.steps() and hf.is_folder(folder)
    return find(name) if imported or theirs else None


class Asked(NamedTuple):
    """What a command asks: the path of a model, and of an adapter over it, "" for none."""

    model: str
    adapter: str = ""


def asked(name: str, base: str = "") -> Asked:
    """The model that a path names; of an adapter's folder the base that its adapter_config.json
    names, or that `--base` does. UserError where neither is there."""
    if hub.is_name(name):
        name = hub.pinned(name)
    folder = place(name)
    file = folder / peft_files.CONFIG
    if not file.is_file() or RunFolder(folder).is_begun() or hf.is_folder(folder):
        if base:
            raise UserError(f"--base={base} is the base of an adapter, and {name} is none")
        return Asked(name)
    try:
        named = base or storage.read_json(file)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{file} names no base_model_name_or_path ({type(e).__name__}: {e}); --base=FOLDER "
            "says where the base lies"
        ) from e
    if isinstance(named, str) and hub.is_name(named):
        try:
            return Asked(hub.pinned(named), str(folder))
        except UserError as e:
            raise UserError(f"{file} names its base; --base=FOLDER says where it lies: {e}") from e
    if not isinstance(named, str) or not Path(named).exists():
        where = f"--base={base}" if base else f"{file}: its base {named!r}"
        hint = "" if base else "; --base=FOLDER says where it lies"
        raise UserError(f"{where} is no path that exists{hint}")
    return Asked(named, str(folder))


def context(begin: Begin) -> int:
    """The most tokens that a model's config.json says it takes; 0 where it does not say."""
    values = hf.read_config(begin.run.pretrained if begin.run else begin.folder)
    length = families.text_config(values).get("max_position_embeddings")
    return length if type(length) is int and length > 0 else 0


def vocabulary_file(begin: Begin) -> Path:
    """The file of a model's vocabulary; UserError where it has none."""
    folder = begin.tokenizer_folder
    file = next((p for n in FILES if (p := folder / n).is_file()), None)
    if file is None:
        what = folder if begin.run else begin.place
        raise UserError(f"{what} has no {', '.join(FILES)}; name the vocabulary: data.vocab=…")
    return file


def model_config(begin: Begin) -> ModelConfig:
    return hf.model_config(begin.folder) if begin.run is None else run_config(begin.run).model


def settle(config: RunConfig, origin: dict[str, str]) -> tuple[RunConfig, dict[str, str]]:
    """The config and the origins of its values with what `model.pretrained` says: the model, except
    for what the command line says; vocabulary and chat template if the recipe names none."""
    begin = find(config.model.pretrained)
    theirs = model_config(begin)
    if begin.run is None and (keys := hf.passed_over(begin.folder)):
        file = gguf_folder.shown(begin.folder, hf.CONFIG)
        say(f"{file}: passed over, as transformers does: {', '.join(keys)}")
    model, data = {}, {}
    for f in dataclasses.fields(ModelConfig):
        if f.name not in families.OF_THE_RUN and origin[f"model.{f.name}"] != "command line":
            model[f.name] = getattr(theirs, f.name)
    if not config.data.vocab:
        data["vocab"] = str(vocabulary_file(begin))
    if template := chat_template(begin):
        if not config.data.chat_template:
            data["chat_template"] = str(template)
        if config.data.prompt_format == "auto":
            data["prompt_format"] = _prompt_format(begin)
    names = [*(f"model.{n}" for n in model), *(f"data.{n}" for n in data)]
    config = changed(changed(config, "model", **model), "data", **data)
    return config, origin | dict.fromkeys(names, begin.place)


def chat_template(begin: Begin) -> Path | None:
    """The file that holds the chat template of a model, if it has one."""
    folder = begin.tokenizer_folder
    if (folder / "chat_template.jinja").is_file():
        return folder / "chat_template.jinja"
    files = (folder / "chat_template.json", folder / "tokenizer_config.json")
    return next((f for f in files if tokenizer_json(f).get("chat_template")), None)


def _prompt_format(begin: Begin) -> str:
    """How a model with a chat template is asked: in turns, or as the run that made it was."""
    if begin.run is None or not begin.run.lock_json.is_file():
        return "chat"
    return "chat" if run_config(begin.run).data.prompt_format == "chat" else "plain"


def keep(name: str, to: Path) -> None:
    """Copy what an export needs besides the weights and the tokenizer (RunFolder.pretrained)."""
    begin = find(name)
    for file in (hf.CONFIG, hf.GENERATION):
        source = (begin.run.pretrained if begin.run else begin.folder) / file
        if source.is_file():
            with storage.whole_file(to / file) as part:
                part.write_bytes(source.read_bytes())


def load_recipe(
    file: str, overrides: list[str] = (), quick: bool = False, absent: bool = False
) -> tuple[RunConfig, dict[str, str]]:
    """A recipe's config with what `model.pretrained` says of the model, and the origin of each
    value.

    absent: the model's folder may be absent, where the recipe itself says what model it is.
    """
    config, origin = recipe.load(file, overrides, quick)
    hub.keep_in(config.data.cache_dir)
    # a recipe that says nothing else of its model knows no more than the folder does
    bare = config.model == dataclasses.replace(ModelConfig(), pretrained=config.model.pretrained)
    there = Path(config.model.pretrained).exists()
    if config.model.pretrained and (there or bare or not absent):
        if hub.is_name(config.model.pretrained):
            name = hub.pinned(config.model.pretrained)
            config = changed(config, "model", pretrained=name)
        config, origin = settle(config, origin)
        config_check.check(config)
    if config.peft.adapter:
        config, origin = _settle_adapter(config, origin)
        config_check.check(config)
    return config, origin


def _settle_adapter(config: RunConfig, origin: dict[str, str]) -> tuple[RunConfig, dict[str, str]]:
    """The config and the origins of its values with what `peft.adapter` says of what trains."""
    rows, name = config.model.vocab_size, config.model.pretrained
    begin = find(name) if Path(name).exists() or hub.is_name(name) else None
    if not rows and begin and begin.run:
        rows = embedding_rows(config, read_lock(begin.run)["vocabulary"]["size"])
    return peft_start.settle(config, origin, rows, model_family(begin) if begin else "")


def model_family(begin: Begin) -> str:
    """The model_type of a Hugging Face folder, or of that which a run began from; "" for none."""
    return hf.family(begin.run.pretrained if begin.run else begin.folder)


def method(run: RunFolder) -> str:
    return run_config(run).peft.method


def has_adapter(name: str) -> bool:
    """Whether a run or checkpoint of ours holds an adapter over a base that lies elsewhere."""
    begin = find(name)
    return begin.run is not None and method(begin.run) != "full"
