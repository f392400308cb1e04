# SPDX-License-Identifier: Apache-2.0
"""Models and adapters in and out of Hugging Face's layouts: `itx convert import`, `itx convert
export`."""

import json
from pathlib import Path
from typing import Any

import jax

from itx import config as configs
from itx import peft, storage
from itx.checkpoint import Checkpoints
from itx.config import MeshConfig, RunConfig
from itx.data import verify
from itx.data.vocabulary import BESIDE, FILES, without_sentinels
from itx.errors import UserError
from itx.mesh import make_mesh
from itx.models import families, hf
from itx.params import embedding_rows, placed_targets
from itx.pretrained import find, keep, method, model_config
from itx.restore import merged_checkpoint, saved_shapes
from itx.runs import RunFolder, read_lock, run_config


def _new(out: str) -> None:
    """UserError where something is already that a folder is to be written to."""
    file = next((p for p in (Path(out), *Path(out).parents) if p.is_file()), None)
    if file is not None:
        raise UserError(f"{file} is a file, not a folder")
    if Path(out).is_dir() and any(Path(out).iterdir()):
        raise UserError(f"{out} is there and not empty")


def import_to(folder: str, out: str) -> dict[str, Any]:
    """Write a Hugging Face folder as a run folder whose only checkpoint, of step 0, holds its
    parameters.

    Each of this machine's devices reads its own part. Returns what was found.
    """
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


def export_adapter(name: str, out: str) -> dict[str, Any]:
    """Write the adapter of a run or a checkpoint as Hugging Face's PEFT does. Returns what was
    written."""
    _new(out)
    begin = find(name)
    config = run_config(begin.run)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(begin.run.checkpoints, read_only=True) as checkpoints:
        shapes = checkpoints.shapes(begin.step)
        checkpoints.check(
            begin.step, "params", saved_shapes(config, read_lock(begin.run)["vocabulary"]["size"])
        )
        targets = {
            p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here) for p, s in shapes.items()
        }
        params, meta = checkpoints.params(begin.step, targets), checkpoints.meta(begin.step)
    base = config.model.pretrained or str(begin.run.path)
    peft.save(out, config.model, config.peft, params, meta["base"], base, _nested(base, begin.run))
    return {
        "method": config.peft.method, "base": base, "step": begin.step, "folder": str(out),
        "parameters": sum(p.size for p in params.values()), "files": [peft.CONFIG, peft.WEIGHTS],
    }  # fmt: skip


def _nested(base: str, run: RunFolder) -> bool:
    """Whether the base of an adapter's run is, for `transformers`, part of a model that also sees
    images."""
    if RunFolder(Path(base)).steps():  # a run of ours, which is exported as the text model alone
        return False
    if hf.is_folder(base):
        return families.is_nested(hf.read_config(base))
    if not (run.pretrained / hf.CONFIG).is_file():
        return False
    return families.is_nested(hf.read_config(run.pretrained))  # the folder is elsewhere now


def _ending(values: dict, eos: int) -> dict:
    """A config with the run's EOS among those that end an answer."""
    known = values.get("eos_token_id")
    known = known if isinstance(known, list) else [] if known is None else [known]
    return values if eos in known else values | {"eos_token_id": [eos, *known] if known else eos}


def export(
    name: str, out: str, dtype: str = "", shard_bytes: int = hf.SHARD_BYTES
) -> dict[str, Any]:
    """Write a run's or a checkpoint's model as a Hugging Face folder, a LoRA merged. Returns what
    was written."""
    begin = find(name)
    if begin.run is None:
        raise UserError(f"{name} is a Hugging Face folder already")
    _new(out)
    cfg, run = model_config(begin), begin.run
    source = hf.read_config(run.pretrained) if run.pretrained.is_dir() else {}
    source = families.text_config(source, str(run.pretrained / hf.CONFIG))
    generation = run.pretrained / hf.GENERATION
    beside = {
        n: f.read_bytes()
        for n in (*FILES[:3], *BESIDE)
        if (f := run.vocab_model.parent / n).is_file()
    }
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
            run.vocab_model, lock, cfg.vocab_size
        ).model.pad_id  # the lock's is what rows are filled with
        special = {"pad_token_id": pad, "bos_token_id": lock["bos_id"]}
        source = source | {k: i for k, i in special.items() if i >= 0 and source.get(k) is None}
        if cfg.architecture == "encoder_decoder":
            source["decoder_start_token_id"] = lock["bos_id"]
        source = _ending(source, lock["eos_id"])
        if generation.is_file() and (g := storage.read_json(generation)) != _ending(
            g, lock["eos_id"]
        ):
            beside[hf.GENERATION] = json.dumps(_ending(g, lock["eos_id"]), indent=1).encode()
    rows = cfg.vocab_size or embedding_rows(run_config(run), read_lock(run)["vocabulary"]["size"])
    # what cannot be exported is said before anything is read
    hf.write_config(cfg, source, "float32")
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    if method(run) != "full":
        params = merged_checkpoint(begin, mesh)
    else:
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            params = checkpoints.params(begin.step, placed_targets(cfg, rows, mesh))
    files = hf.save(
        out, cfg, params, source=source, beside=beside, dtype=dtype, shard_bytes=shard_bytes
    )
    written = hf.read_config(out)
    return {
        "family": written["model_type"], "dtype": written["torch_dtype"], "step": begin.step, "folder": str(out),
        "parameters": sum(p.size for p in jax.tree.leaves(params)), "files": [f.name for f in files],
    }  # fmt: skip
