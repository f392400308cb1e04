# SPDX-License-Identifier: Apache-2.0
"""Models and adapters in and out of Hugging Face's layouts, and GGUF files in: `itx convert
import`, `itx convert export`."""

import json
from pathlib import Path
from typing import Any

import jax

from itx import config as configs
from itx import mesh as meshes
from itx import peft_files, storage
from itx.checkpoint import Checkpoints
from itx.config import MeshConfig, ModelConfig, RunConfig
from itx.data import verify
from itx.data.vocabulary import BESIDE, FILES, without_sentinels
from itx.errors import UserError
from itx.models import families, gguf_folder, hf
from itx.params import Params, embedding_rows, model_specs
from itx.pretrained import Begin, find, keep, method, model_config
from itx.restore import (
    load_model,
    load_untrained,
    merged,
    merged_checkpoint,
    plan_model,
    with_adapter,
)
from itx.runs import RunFolder, base_step, read_lock, run_config


def _check_new(out: str) -> None:
    """UserError if a folder cannot be written to because something is there."""
    file = next((p for p in (Path(out), *Path(out).parents) if p.is_file()), None)
    if file is not None:
        raise UserError(f"{file} is a file, not a folder")
    if Path(out).is_dir() and any(Path(out).iterdir()):
        raise UserError(f"{out} is there and not empty")


def _count(params: Params) -> int:
    return sum(p.size for p in params.values())


def import_to(name: str, out: str) -> dict[str, Any]:
    """Write a Hugging Face folder or a GGUF file as a run folder whose only checkpoint, of step 0,
    holds its parameters. Each of this machine's devices reads its own part. Returns facts about
    the model.
    """
    if not gguf_folder.is_gguf(Path(name)) and not hf.is_folder(name):
        raise UserError(
            f"{name} is no Hugging Face folder (no config.json with a model_type), nor a GGUF file"
        )
    _check_new(out)
    folder = find(name).folder
    cfg = hf.model_config(folder)
    specs = model_specs(cfg, cfg.vocab_size, meshes.make_mesh(MeshConfig(data=1, fsdp=-1)))
    left_out = hf.check(folder, cfg, specs)
    source, run = hf.read_config(folder), RunFolder(Path(out))
    params = hf.load(folder, cfg, specs)
    about = {"from": name, "config": configs.to_dict(RunConfig(model=cfg))}
    with Checkpoints(run.checkpoints, keep=None) as checkpoints:
        checkpoints.save(0, params, None, {"step": 0, "about": about})
    for file in (*FILES, *BESIDE):
        if (folder / file).is_file():
            with storage.whole_file(run.vocab_model.with_name(file)) as part:
                part.write_bytes((folder / file).read_bytes())
    keep(name, run.pretrained)
    storage.write_json(run.config_json, storage.sealed(about))
    return {
        "family": families.family_of(cfg, families.text_config(source)["model_type"]),
        "dtype": hf.dtype_of(source),
        "stored": gguf_folder.kinds(folder),
        "parameters": _count(params),
        "left_out": dict(left_out),
        "folder": str(out),
        "passed_over": hf.passed_over(folder),
    }


def export_adapter(name: str, out: str) -> dict[str, Any]:
    """Write the adapter of a run or a checkpoint as Hugging Face's PEFT does. Returns facts about
    it."""
    _check_new(out)
    begin = find(name)
    config, step = run_config(begin.run), begin.step
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(begin.run.checkpoints, read_only=True) as checkpoints:
        plan = plan_model(config, read_lock(begin.run)["vocabulary"]["size"])
        checkpoints.check(step, "params", plan.saved_of(*plan.shapes))
        saved = checkpoints.shapes(step)
        params = checkpoints.params(step, meshes.specs(saved, dict.fromkeys(saved, device)))
        meta = checkpoints.meta(step)
    base = config.model.pretrained or str(begin.run.path)
    family = _base_family(base, begin.run)
    peft_files.save(out, config.model, config.peft, params, meta["base"], base, family)
    return {
        "method": config.peft.method,
        "base": base,
        "step": step,
        "folder": str(out),
        "parameters": _count(params),
        "files": [peft_files.CONFIG, peft_files.WEIGHTS],
    }


def _base_family(base: str, run: RunFolder) -> str:
    """The model_type as which `transformers` loads the base of an adapter's run; "" if it came with
    none."""
    if RunFolder(Path(base)).steps():  # a run of ours, which is exported as the text model alone
        return hf.family(run.pretrained)
    # without the folder, as it was when the run began
    folder = base if hf.is_folder(base) else run.pretrained
    return hf.family(folder) and hf.read_config(folder)["model_type"]


def _ending(values: dict, eos: int) -> dict:
    """A config with the run's EOS among those that end an answer."""
    known = values.get("eos_token_id")
    known = known if isinstance(known, list) else [] if known is None else [known]
    return values if eos in known else values | {"eos_token_id": [eos, *known] if known else eos}


def _vocabulary_files(begin: Begin, cfg: ModelConfig) -> dict[str, bytes]:
    """{name: content} of the tokenizer's files in an exported folder."""
    folder, ours = begin.tokenizer_folder, FILES.index("sentencepiece.model")
    files = {
        name: (folder / name).read_bytes()
        for name in (*FILES[:ours], *BESIDE)
        if (folder / name).is_file()
    }
    if begin.run and (file := begin.run.vocab_model).name == FILES[ours] and file.is_file():
        if cfg.architecture == "encoder_decoder":
            files["spiece.model"] = without_sentinels(file.read_bytes())
        else:
            files["tokenizer.model"] = file.read_bytes()
    return files


def export(
    name: str,
    out: str,
    dtype: str = "",
    shard_bytes: int = hf.SHARD_BYTES,
    adapter: str = "",
) -> dict[str, Any]:
    """Write a model as a Hugging Face folder, its LoRA merged, or the one in the folder `adapter`.
    Returns facts about it."""
    _check_new(out)
    begin = find(name)
    cfg, run = model_config(begin), begin.run
    came_with = run.pretrained if run else begin.folder
    source = hf.read_config(came_with) if came_with.is_dir() else {}
    source = families.text_config(source, str(came_with / hf.CONFIG))
    beside, generation = _vocabulary_files(begin, cfg), came_with / hf.GENERATION
    if generation.is_file():
        beside[hf.GENERATION] = generation.read_bytes()
    rows = cfg.vocab_size
    if _has_lock(begin):
        lock = read_lock(run)
        # not the lock's pad_id, which is what rows are filled with
        pad = verify.vocabulary_of_run(run.vocab_model, lock, cfg.vocab_size).model.pad_id
        special = {"pad_token_id": pad, "bos_token_id": lock["bos_id"]}
        source = source | {k: i for k, i in special.items() if i >= 0 and source.get(k) is None}
        if cfg.architecture == "encoder_decoder":
            source["decoder_start_token_id"] = lock["bos_id"]
        source = _ending(source, lock["eos_id"])
        if generation.is_file():
            settings = storage.read_json(generation)
            if settings != (ending := _ending(settings, lock["eos_id"])):
                beside[hf.GENERATION] = json.dumps(ending, indent=1).encode()
        rows = rows or embedding_rows(run_config(run), lock["vocabulary"]["size"])
    hf.write_config(cfg, source, "float32")  # fails before anything is read if it cannot be done
    params = _params(begin, cfg, rows, adapter)
    options = {"source": source, "beside": beside, "dtype": dtype, "shard_bytes": shard_bytes}
    files = hf.save(out, cfg, params, **options)
    written = hf.read_config(out)
    return {
        "family": written["model_type"],
        "dtype": written["torch_dtype"],
        "step": begin.step if run else None,
        "folder": str(out),
        "parameters": _count(params),
        "files": [f.name for f in files],
    }


def _has_lock(begin: Begin) -> bool:
    """Whether data of ours were built for a model: not for one that was imported, or another's."""
    run = begin.run
    return run is not None and (run.lock_json.is_file() or run.steps() != [0])


def _params(begin: Begin, cfg: ModelConfig, rows: int, adapter: str) -> Params:
    """The parameters of a plain model, an adapter merged into them."""
    mesh, run = meshes.make_mesh(MeshConfig(data=1, fsdp=-1)), begin.run
    if adapter:
        if _has_lock(begin):
            step = base_step(run, None if begin.folder == run.path else begin.step)
            base = load_model(run, run_config(run), read_lock(run), step, mesh)
        else:
            base = load_untrained(begin)[0]
        return merged(with_adapter(base, adapter))
    if run is None:
        specs = model_specs(cfg, rows, mesh)
        hf.check(begin.folder, cfg, specs)
        return hf.load(begin.folder, cfg, specs)
    if method(run) != "full":
        return merged_checkpoint(begin, mesh)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        return checkpoints.params(begin.step, model_specs(cfg, rows, mesh))
