# SPDX-License-Identifier: Apache-2.0
"""What a run may begin from (`model.pretrained`): a folder of Hugging Face's, or one of ours.

Ours is a run folder, from whose newest checkpoint it goes on, one of its checkpoints (RUN/checkpoints/500), or what
`itx convert import` wrote, which has the same files. Which model it is, its vocabulary and its chat template come
from there; how it computes and trains is the recipe's. A resumed run restores its own checkpoint and reads nothing here.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from itx import config as configs
from itx import storage
from itx.config import ModelConfig, RunConfig
from itx.data import verify
from itx.data.vocabulary import BESIDE, FILES, Vocabulary, tokenizer_json, without_sentinels
from itx.errors import UserError, did_you_mean
from itx.models import families, hf
from itx.runs import RunFolder, read_lock, run_config
from itx.text import visible


class Begin(NamedTuple):
    """Where a run begins; `run` and `step` of ours."""

    folder: Path
    run: RunFolder | None = None
    step: int = 0

    @property
    def tokenizer_folder(self) -> Path:
        return self.run.vocab_model.parent if self.run else self.folder


def find(name: str) -> Begin:
    """What a path names; UserError where that is no model."""
    folder = Path(name)
    run, step = RunFolder(folder), None
    ours = bool(run.steps())  # its config.json may be damaged: its checkpoints hold another
    if not ours and hf.is_folder(folder):
        return Begin(folder)
    if not ours and run.config_json.is_file() and "config" not in hf.read_config(folder):
        raise UserError(f"{run.config_json} has neither a 'model_type', as Hugging Face's have, nor a run's 'config'")
    if folder.parent.name == "checkpoints" and folder.name.isdigit():
        run, step = RunFolder(folder.parents[1]), int(folder.name)
    steps = run.steps()
    if step in steps if step is not None else steps:
        return Begin(folder, run, steps[-1] if step is None else step)
    if run.is_begun():
        there = ", ".join(map(str, steps)) or "none"
        raise UserError(
            f"{name}: {run.path} has no checkpoint{'' if step is None else f' of step {step}'}; there are: {there}"
        )
    near = [str(p) for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
    raise UserError(
        f"{name} holds no model: neither a Hugging Face folder (config.json with a model_type) nor a run folder"
        + did_you_mean(name, near)
    )


def model_config(begin: Begin) -> ModelConfig:
    if begin.run is None:
        return hf.model_config(begin.folder)
    return run_config(begin.run).model


def settle(config: RunConfig, origin: dict[str, str]) -> tuple[RunConfig, dict[str, str]]:
    """The config with what `model.pretrained` says: the model, but for what the command line says; vocabulary and chat
    template where the recipe names none."""
    begin = find(config.model.pretrained)
    found, origin = model_config(begin), dict(origin)
    if begin.run is None and (keys := hf.passed_over(begin.folder)):
        said = f"itx: {begin.folder / hf.CONFIG}: passed over, as transformers does: {', '.join(keys)}"
        print(visible(said), file=sys.stderr)
    new = {}
    for f in dataclasses.fields(ModelConfig):
        name = f"model.{f.name}"
        if f.name not in families.OF_THE_RUN and origin[name] != "command line":
            new[f.name], origin[name] = getattr(found, f.name), str(begin.folder)
    data = {}
    tokenizer = next((p for n in FILES if (p := begin.tokenizer_folder / n).is_file()), None)
    if not config.data.vocab:
        if tokenizer is None:
            raise UserError(f"{begin.tokenizer_folder} has no {', '.join(FILES)}; name the vocabulary: data.vocab=…")
        data["vocab"] = str(tokenizer)
    if not config.data.chat_template and (template := _chat_template(begin.tokenizer_folder)):
        data["chat_template"] = str(template)
    origin |= {f"data.{name}": str(begin.folder) for name in data}
    model = dataclasses.replace(config.model, **new)
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, **data)), origin


def _chat_template(folder: Path) -> Path | None:
    """The file that holds the chat template of a model, if it has one."""
    if (folder / "chat_template.jinja").is_file():
        return folder / "chat_template.jinja"
    files = (folder / "chat_template.json", folder / "tokenizer_config.json")
    return next((f for f in files if tokenizer_json(f).get("chat_template")), None)


def keep(name: str, to: Path) -> None:
    """Copy what an export needs besides the weights and the tokenizer (RunFolder.pretrained)."""
    begin = find(name)
    for file in (hf.CONFIG, hf.GENERATION):
        source = (begin.run.pretrained if begin.run else begin.folder) / file
        if source.is_file():
            with storage.whole_file(to / file) as part:
                part.write_bytes(source.read_bytes())


def ready(config: RunConfig) -> None:
    """Before anything is built: UserError where the model's files are not what its config.json says, or the vocabulary
    has more ids than the embedding has rows."""
    from itx.train import abstract_model, parameters, vocab_rows

    size, file = 0, Path(config.data.vocab)
    if file.is_file():
        size = Vocabulary(file, config.model.vocab_size).size
    lock = {"vocabulary": {"size": size, "file": config.data.vocab}}
    vocab_rows(config, lock)
    check(config.model.pretrained, config.model, parameters(abstract_model(config, lock)[1]))


def check(name: str, cfg: ModelConfig, shapes: dict[str, Any]) -> None:
    """UserError where a model does not have the parameters `shapes`; reads no weight."""
    begin = find(name)
    if begin.run is None:
        hf.check(begin.folder, cfg, shapes)


def load(name: str, cfg: ModelConfig, targets: dict[str, Any]) -> dict[str, Any]:
    """Parameters as `targets` says: {path: ShapeDtypeStruct with a sharding}."""
    begin = find(name)
    if begin.run is None:
        return hf.load(begin.folder, cfg, targets)
    from itx.checkpoint import Checkpoints, check_shapes

    if _method(begin.run) != "full":
        import jax

        params = _merged(begin, next(iter(targets.values())).sharding.mesh)
        check_shapes(f"{name}: params", params, targets)
        return {p: jax.device_put(params[p].astype(t.dtype), t.sharding) for p, t in targets.items()}
    with Checkpoints(begin.run.checkpoints, read_only=True) as checkpoints:
        return checkpoints.params(begin.step, targets)


def _new(out: str) -> None:
    """UserError where something is already that a folder is to be written to."""
    file = next((p for p in (Path(out), *Path(out).parents) if p.is_file()), None)
    if file is not None:
        raise UserError(f"{file} is a file, not a folder")
    if Path(out).is_dir() and any(Path(out).iterdir()):
        raise UserError(f"{out} is there and not empty")


def import_to(folder: str, out: str) -> dict[str, Any]:
    """Write a Hugging Face folder as a run folder whose only checkpoint, of step 0, holds its parameters.

    Each of this machine's devices reads its own part. Returns what was found.
    """
    from itx.checkpoint import Checkpoints
    from itx.config import MeshConfig
    from itx.mesh import make_mesh
    from itx.train import placed_targets

    if not hf.is_folder(folder):
        raise UserError(f"{folder} is no Hugging Face folder (no config.json with a model_type)")
    _new(out)
    cfg = hf.model_config(folder)
    targets = placed_targets(cfg, cfg.vocab_size, make_mesh(MeshConfig(data=1, fsdp=-1)))
    left_out = hf.check(folder, cfg, targets)
    source, run = hf.read_config(folder), RunFolder(Path(out))
    params = hf.load(folder, cfg, targets)
    about = {"from": str(folder), "config": configs.to_dict(RunConfig(model=cfg))}
    with Checkpoints(run.checkpoints, keep=None) as checkpoints:
        checkpoints.save(0, params, None, {"step": 0, "about": about})
    for name in (*FILES, *BESIDE):
        if (Path(folder) / name).is_file():
            with storage.whole_file(run.vocab_model.with_name(name)) as part:
                part.write_bytes((Path(folder) / name).read_bytes())
    keep(folder, run.pretrained)
    storage.write_json(run.config_json, storage.sealed(about))
    return {
        "family": families.family_of(cfg, families.text_config(source)["model_type"]), "dtype": hf.dtype_of(source),
        "parameters": sum(p.size for p in params.values()), "left_out": dict(left_out), "folder": str(out),
        "passed_over": hf.passed_over(folder),
    }  # fmt: skip


def _method(run: RunFolder) -> str:
    return run_config(run).peft.method


def _merged(begin: Begin, mesh: Any) -> dict[str, Any]:
    """Parameters of an adapter's checkpoint, put into its base's weights."""
    from itx.train import load_model, merged

    return merged(load_model(begin.run, run_config(begin.run), read_lock(begin.run), begin.step, mesh))


def export_adapter(name: str, out: str) -> dict[str, Any]:
    """Write the adapter of a run or a checkpoint as Hugging Face's PEFT does. Returns what was written."""
    import jax

    from itx import peft
    from itx.checkpoint import Checkpoints
    from itx.train import saved_shapes

    _new(out)
    begin = find(name)
    config = run_config(begin.run)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(begin.run.checkpoints, read_only=True) as checkpoints:
        shapes = checkpoints.shapes(begin.step)
        checkpoints.check(begin.step, "params", saved_shapes(config, read_lock(begin.run)))
        targets = {p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here) for p, s in shapes.items()}
        params, meta = checkpoints.params(begin.step, targets), checkpoints.meta(begin.step)
    base = config.model.pretrained or str(begin.run.path)
    peft.save(out, config.model, config.peft, params, meta["base"], base, _nested(base, begin.run))
    return {
        "method": config.peft.method, "base": base, "step": begin.step, "folder": str(out),
        "parameters": sum(p.size for p in params.values()), "files": [peft.CONFIG, peft.WEIGHTS],
    }  # fmt: skip


def _nested(base: str, run: RunFolder) -> bool:
    """Whether the base of an adapter's run is, for `transformers`, part of a model that also sees images."""
    if RunFolder(Path(base)).steps():  # a run of ours, which is exported as the text model alone
        return False
    if hf.is_folder(base):
        return families.is_nested(hf.read_config(base))
    if not (run.pretrained / hf.CONFIG).is_file():
        return False
    return families.is_nested(hf.read_config(run.pretrained))  # the folder is elsewhere now


def has_adapter(name: str) -> bool:
    """Whether a run or checkpoint of ours holds an adapter over a base that lies elsewhere."""
    begin = find(name)
    return begin.run is not None and _method(begin.run) != "full"


def _ending(values: dict, eos: int) -> dict:
    """A config with the run's EOS among those that end an answer."""
    known = values.get("eos_token_id")
    known = known if isinstance(known, list) else [] if known is None else [known]
    return values if eos in known else values | {"eos_token_id": [eos, *known] if known else eos}


def export(name: str, out: str, dtype: str = "", shard_bytes: int = hf.SHARD_BYTES) -> dict[str, Any]:
    """Write a run's or a checkpoint's model as a Hugging Face folder, a LoRA merged. Returns what was written."""
    import jax

    from itx.checkpoint import Checkpoints
    from itx.config import MeshConfig
    from itx.mesh import make_mesh
    from itx.train import placed_targets, vocab_rows

    begin = find(name)
    if begin.run is None:
        raise UserError(f"{name} is a Hugging Face folder already")
    _new(out)
    cfg, run = model_config(begin), begin.run
    source = hf.read_config(run.pretrained) if run.pretrained.is_dir() else {}
    source = families.text_config(source, str(run.pretrained / hf.CONFIG))
    generation = run.pretrained / hf.GENERATION
    beside = {n: f.read_bytes() for n in (*FILES[:3], *BESIDE) if (f := run.vocab_model.parent / n).is_file()}
    if generation.is_file():
        beside[hf.GENERATION] = generation.read_bytes()
    if run.vocab_model.name == "sentencepiece.model" and run.vocab_model.is_file():
        model = run.vocab_model.read_bytes()
        if cfg.architecture == "encoder_decoder":
            beside["spiece.model"] = without_sentinels(model)
        else:
            beside["tokenizer.model"] = model
    if run.lock_json.is_file() or run.steps() != [0]:
        lock = read_lock(run)
        pad = verify.vocabulary_of_run(
            run, lock, cfg.vocab_size
        ).model.pad_id  # the lock's is what rows are filled with
        special = {"pad_token_id": pad, "bos_token_id": lock["bos_id"]}
        source = source | {k: i for k, i in special.items() if i >= 0 and source.get(k) is None}
        if cfg.architecture == "encoder_decoder":
            source["decoder_start_token_id"] = lock["bos_id"]
        source = _ending(source, lock["eos_id"])
        if generation.is_file() and (g := storage.read_json(generation)) != _ending(g, lock["eos_id"]):
            beside[hf.GENERATION] = json.dumps(_ending(g, lock["eos_id"]), indent=1).encode()
    rows = cfg.vocab_size or vocab_rows(run_config(run), read_lock(run))
    hf.write_config(cfg, source, "float32")  # what cannot be exported is said before anything is read
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    if _method(run) != "full":
        params = _merged(begin, mesh)
    else:
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            params = checkpoints.params(begin.step, placed_targets(cfg, rows, mesh))
    files = hf.save(out, cfg, params, source=source, beside=beside, dtype=dtype, shard_bytes=shard_bytes)
    written = hf.read_config(out)
    return {
        "family": written["model_type"], "dtype": written["torch_dtype"], "step": begin.step, "folder": str(out),
        "parameters": sum(p.size for p in jax.tree.leaves(params)), "files": [f.name for f in files],
    }  # fmt: skip
