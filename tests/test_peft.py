# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they add to a model, what of it trains, and that the base stays as it is."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from itx import checkpoint, cli, loss, peft, peft_files, pretrained, recipe, restore, train
from itx import mesh as meshes
from itx.config import MeshConfig, PeftConfig
from itx.errors import UserError
from itx.eval.loaded import LoadedModel
from itx.eval.runner import Runner
from itx.models import attention, hf
from itx.models.transformer import Transformer
from itx.params import find, model_specs, module_of, parameters
from tests import samples, synthetic, tiny
from tests.conftest import REPO
from tests.synthetic import changed

LOCK = synthetic.lock()
METHODS = {
    "lora": PeftConfig(method="lora", rank=3),
    "dora": PeftConfig(method="lora", rank=3, dora=True, rslora=True),
    "prefix": PeftConfig(method="prefix", length=5),
    "prefix_mlp": PeftConfig(method="prefix", length=5, prefix_hidden=7),
    "prompt": PeftConfig(method="prompt", length=5),
}
MODELS = {
    "decoder": tiny.decoder(),
    "prefix_lm": tiny.decoder(prefix_lm=True, tie_embeddings=False),
    "t5": tiny.t5(),
    # two layers: one sees 4 tokens, the other all
    "window": tiny.decoder(sliding_window=4, global_every=2),
}
HEAD = (r".*/w\w+", "head")  # every matrix there is


def mesh_of(devices: int = 1, **sizes):
    return meshes.make_mesh(MeshConfig(**sizes), jax.devices()[:devices])


def configured(model: str, method: str, **sections):
    """A run config; its norms, factors and biases are those of `adapted`."""
    return synthetic.config(MODELS[model], peft=dataclasses.asdict(METHODS[method]), **sections)


def moved(model: nnx.Module, seed: int = 5) -> nnx.Module:
    """The model with every parameter of its adapter moved, as training would."""
    state = nnx.state(model, (peft.LoRAParam, peft.PrefixParam, peft.PromptParam))
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    new = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    nnx.update(model, jax.tree.unflatten(tree, new))
    return model


def base_of(name: str) -> Transformer:
    return Transformer(MODELS[name], synthetic.VOCAB, nnx.Rngs(0))


def adapted(name: str, method: str, **changes) -> Transformer:
    return peft.add(base_of(name), dataclasses.replace(METHODS[method], **changes), 1)


def batch_of(name: str, rows: list | None = None) -> dict:
    batch = synthetic.batch(
        rows or [synthetic.examples(3, 1), synthetic.examples(2, 2)], synthetic.config(MODELS[name])
    )
    return peft.with_prompts(batch) if name == "t5" else batch


def logits(model: Transformer, batch: dict) -> np.ndarray:
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda s, b: nnx.merge(graphdef, s)(b))(state, batch))


def loras_of(model: nnx.Module) -> dict[str, tuple[peft.LoRA, jax.Array | float]]:
    """{path of a weight: (its LoRA, the factor that DoRA multiplies the sum with)}."""
    out = {}
    for path in parameters(model):
        module, name = find(model, path)
        if (lora := getattr(module, f"{name}_lora", None)) is None:
            continue
        factor, w = 1.0, getattr(module, name)[...]
        if lora.magnitude is not None:
            norm = peft.layerwise(lora, "norm", "/blocks/" in path, w)
            inputs = range(1, 1 + w.ndim - norm.ndim)  # behind the layers, or in front
            factor = jnp.expand_dims(
                lora.magnitude[...] / norm, inputs if "/blocks/" in path else ()
            )
        out[path] = lora, factor
    return out


def unmerge(model: nnx.Module, loras: dict[str, tuple[peft.LoRA, jax.Array | float]]) -> None:
    """The model before `peft.merge`, up to rounding."""
    for path, (lora, factor) in loras.items():
        module, name = find(model, path)
        w, (a, b) = getattr(module, name), peft.layerwise(lora, "factors", "/blocks/" in path)
        w[...] = w[...] / factor - lora.scale * (a @ b).reshape(w.shape)
        setattr(module, f"{name}_lora", lora)


@pytest.mark.parametrize(("name", "method"), [("decoder", "lora"), ("t5", "dora")])
def test_lora_at_init_is_the_base_and_merging_gives_the_adapter(name, method):
    batch, targets = batch_of(name), HEAD if MODELS[name].tie_embeddings is False else (r".*/w\w+",)
    base, model = base_of(name), adapted(name, method, targets=targets)
    plain = logits(base, batch)
    np.testing.assert_allclose(logits(model, batch), plain, atol=2e-6)
    tuned = logits(moved(model), batch)
    assert np.abs(tuned - plain).max() > 0.1
    before = loras_of(model)
    peft.merge(model)
    assert len(before) == sum(p.split("/")[-1] in peft.MATRICES for p in parameters(base))
    assert parameters(model).keys() == parameters(base).keys()
    np.testing.assert_allclose(logits(model, batch), tuned, atol=1e-4)
    unmerge(model, before)
    np.testing.assert_allclose(logits(model, batch), tuned, atol=1e-4)
    back, first = parameters(model), parameters(base)
    for path in first:
        np.testing.assert_allclose(back[path], first[path], atol=2e-6, err_msg=path)


def test_merging_over_a_bfloat16_base_keeps_what_bfloat16_cannot_hold():
    runner = runner_of("decoder", "lora")
    base = parameters(base_of("decoder"))
    low = {
        p: (v.astype(jnp.bfloat16) if p in base else v * 0.01)
        for p, v in runner.loaded.params.items()
    }
    path = next(p for p in base if p.endswith("/wq"))
    found = restore.merged(changed(runner, params=low))[path]
    exact = restore.merged(
        changed(runner, params={p: v.astype(jnp.float32) for p, v in low.items()})
    )[path]
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)
    assert (found != exact.astype(jnp.bfloat16)).any()


@pytest.mark.parametrize(
    ("name", "method"),
    [("decoder", "prefix"), ("t5", "prefix"), ("decoder", "prompt"), ("t5", "prompt")],
)
def test_no_virtual_token_is_the_base(name, method):
    batch = batch_of(name)
    plain = logits(base_of(name), batch)
    np.testing.assert_allclose(logits(adapted(name, method, length=0), batch), plain, atol=1e-6)
    assert np.abs(logits(adapted(name, method), batch) - plain).max() > 0.01


def test_a_prefix_is_seen_from_outside_a_window():
    """The last token of a row of 30 through a window of 4: only of the sliding layer's prefix is it
    asked here."""
    model = adapted("window", "prefix")
    batch = batch_of("window", [[([7] * 30, [3], 0)]])
    graphdef, own, rest = nnx.split(model, peft.PrefixParam, ...)
    last = jax.jit(jax.grad(lambda own: jnp.sum(nnx.merge(graphdef, own, rest)(batch)[0, 1] ** 2)))(
        own
    )
    for kind in ("k", "v"):
        assert (np.abs(last["decoder"]["prefix"][kind].get_value()[0]).max(-1) > 0).all()


def test_rows_of_blocks_see_a_prefix_too(monkeypatch):
    """Queries in blocks, each with the prefix and the keys up to its end (and within its window),
    as all at once."""
    for name in ("decoder", "window"):
        model, batch = moved(adapted(name, "prefix")), batch_of(name)
        whole = logits(model, batch)
        monkeypatch.setattr(attention, "SMALLEST_BLOCK", 8)
        np.testing.assert_allclose(logits(model, batch), whole, atol=1e-5)
        monkeypatch.undo()


# ---- training


def gradient(name: str, method: str, batches: list[dict]) -> list[tuple]:
    """({sums of the loss}, {path: gradient}) of a moved adapter for each batch, by one program."""
    model = moved(adapted(name, method))
    graphdef, own, rest = nnx.split(model, peft.TRAINED[METHODS[method].method], ...)

    def objective(own, batch: dict):
        targets, weights, tasks = loss.at_loss_positions(batch)
        sums = loss.sums(nnx.merge(graphdef, own, rest)(batch), targets, weights, tasks, 3)
        return sums["objective"], sums

    compiled = jax.jit(jax.grad(objective, has_aux=True))
    out = []
    for batch in batches:
        grads, sums = jax.device_get(compiled(own, batch))
        flat = {"/".join(map(str, p)): v.get_value() for p, v in nnx.to_flat_state(grads)}
        out.append((sums, flat))
    return out


def agree(a: tuple, b: tuple) -> None:
    for key in ("loss", "weight", "task_loss"):
        np.testing.assert_allclose(a[0][key], b[0][key], rtol=5e-5, err_msg=key)
    assert a[1].keys() == b[1].keys() and a[1]
    for path in a[1]:
        size = np.abs(a[1][path]).max()
        assert size > 0, path
        np.testing.assert_allclose(
            a[1][path], b[1][path], rtol=1e-3, atol=2e-4 * size, err_msg=path
        )


PAIRS = [
    ("decoder", "dora"),
    ("decoder", "prefix"),
    ("decoder", "prompt"),
    ("prefix_lm", "prompt"),
    ("t5", "lora"),
    ("t5", "prefix_mlp"),
    ("t5", "prompt"),
    ("window", "prefix"),
]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_packing_changes_neither_loss_nor_gradient_of_an_adapter(name, method):
    some = synthetic.examples(8, 3)
    packed = batch_of(name, [some[:3], some[3:6], some[6:], *[[]] * 5])
    alone = batch_of(name, [[e] for e in some])
    # four copies of the virtual tokens there as well: one program for both
    if "encoder_prompts" in alone:
        alone["encoder_prompts"] = packed["encoder_prompts"] * (np.arange(4) == 0)
    assert packed["decoder_segment_ids"].max() == 3 and alone["decoder_segment_ids"].max() == 1
    agree(*gradient(name, method, [packed, alone]))


def test_factors_are_split_as_their_weights_are():
    cfg = configured("decoder", "lora")
    state, _, setup = synthetic.init_state(cfg, LOCK, mesh_of(8, fsdp=4, tensor=2))
    specs = {
        p.split("/")[-2] + "/" + p[-1]: tuple(x.sharding.spec) for p, x in state["params"].items()
    }
    assert specs["wq_lora/a"] == (None, "fsdp", None) and specs["wq_lora/b"] == (
        None,
        None,
        "tensor",
        None,
    )
    assert specs["wo_lora/a"] == (None, "tensor", None, None) and specs["wo_lora/b"] == (
        None,
        None,
        "fsdp",
    )
    mu = [
        x
        for p, x in checkpoint.named_leaves(state["opt_state"]).items()
        if p.endswith("mu/decoder/blocks/mlp/w_in_lora/a")
    ]
    assert [tuple(x.sharding.spec) for x in mu] == [(None, "fsdp", None)]


def products(jaxpr) -> set[tuple[int, ...]]:
    """Shapes of all matrix products in a program."""
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            found.add(eqn.outvars[0].aval.shape)
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            found |= products(inner) if hasattr(inner, "eqns") else set()
    return found


class Same(synthetic.Batches):
    """The first batch again and again."""

    def batch(self, step: int) -> dict:
        return super().batch(0)


@pytest.mark.parametrize(("name", "method"), [("decoder", "dora"), ("t5", "prompt")])
def test_training_lowers_the_loss_and_frozen_parameters_cost_nothing_and_stay_bit_for_bit(
    name, method, tmp_path, capsys
):
    cfg = configured(
        name,
        method,
        train={"steps": 20, "checkpoint_every": 20, "log_every": 1},
        optim={"warmup_steps": 0, "learning_rate": 0.1, "schedule": "constant"},
    )
    state, frozen, setup = synthetic.init_state(cfg, LOCK, mesh_of())
    base = parameters(base_of(name))
    assert frozen.keys() == base.keys() and not state["params"].keys() & base.keys()
    count = sum(x.size for x in state["params"].values())
    # Adam: two and a count of steps
    assert sum(x.size for x in jax.tree.leaves(state["opt_state"])) == 2 * count + 1
    # a weight's gradient would be a product of its own shape: of w_in [32, 48] and w_out [48, 32]
    batch = synthetic.Batches(cfg).batch(0)
    batch = peft.with_prompts(batch) if method == "prompt" else batch
    full = train.make_setup(
        dataclasses.replace(cfg, peft=PeftConfig()), *synthetic.sizes_of(LOCK), mesh_of()
    )
    shapes = {(32, 48), (48, 32)}
    assert shapes & products(jax.make_jaxpr(full.step)(*full.specs, batch).jaxpr)
    assert not shapes & products(jax.make_jaxpr(setup.step)(*setup.specs, batch).jaxpr)
    before = jax.device_get({**state["params"], **frozen})
    folder = synthetic.Folder(tmp_path)
    train.train(cfg, LOCK, Same(cfg), folder, setup=setup)
    after = jax.device_get(restore.load_model(folder, cfg, LOCK, mesh=mesh_of()).loaded.params)
    assert after.keys() == before.keys()
    for path in before:
        assert (before[path].tobytes() == after[path].tobytes()) == (path in base), path
    lines = [json.loads(line) for line in folder.metrics_jsonl.read_text().splitlines()]
    assert lines[-1]["train/loss"] < 0.97 * lines[0]["train/loss"]
    total = count + sum(x.size for x in frozen.values())
    told = (
        f"{count:,} of {total:,} parameters train ({count / total:.2%}); "
        f"optimizer state {8 * count / 1e6:,.2f} MB"
    )
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "method",
    ["lora", *(pytest.param(m, marks=pytest.mark.slow) for m in ("dora", "prefix", "prompt"))],
)
def test_a_compiled_step_has_no_memory_for_what_does_not_train(method):
    """Beside full tuning it takes two moments of the frozen parameters less, and about their
    gradient less: one row, so that activations are few."""
    wide = tiny.decoder(embed_dim=128, mlp_dim=1024)
    adapter = synthetic.config(
        wide, peft=dataclasses.asdict(METHODS[method]), data={"global_batch": 1}
    )
    batch = synthetic.Batches(adapter).batch(0)
    steps = [
        train.make_setup(c, *synthetic.sizes_of(LOCK), mesh_of())
        for c in (adapter, dataclasses.replace(adapter, peft=PeftConfig()))
    ]
    one, full = (
        setup.step.lower(*setup.specs, batch).compile().memory_analysis() for setup in steps
    )
    frozen = 4 * sum(x.size for x in steps[0].specs[1].values())
    assert 1.85 < (full.argument_size_in_bytes - one.argument_size_in_bytes) / frozen <= 2
    assert (full.temp_size_in_bytes - one.temp_size_in_bytes) / frozen > 0.8


def test_resume_of_an_adapter_is_bitwise_and_its_checkpoint_holds_no_base(tmp_path):
    cfg = configured(
        "decoder", "lora", train={"steps": 4, "checkpoint_every": 2}, optim={"warmup_steps": 1}
    )
    cfg = dataclasses.replace(
        cfg, peft=dataclasses.replace(cfg.peft, dropout=0.2, base_dtype="bfloat16")
    )
    setup = train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh_of())
    straight, parts = synthetic.Folder(tmp_path / "a"), synthetic.Folder(tmp_path / "b")
    whole = jax.device_get(train.train(cfg, LOCK, synthetic.Batches(cfg), straight, setup=setup))

    class Stopping(synthetic.Batches):
        def batch(self, step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step)

    with pytest.raises(SystemExit):
        train.train(cfg, LOCK, Stopping(cfg), parts, setup=setup)
    resumed = jax.device_get(train.train(cfg, LOCK, synthetic.Batches(cfg), parts, setup=setup))
    pairs = list(zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True))
    assert all(np.array_equal(a, b) for a, b in pairs)
    first = jax.device_get(setup.init()[0]["params"])
    # dropout or not, all moved
    assert not any(np.array_equal(first[p], x) for p, x in whole["params"].items())
    with checkpoint.Checkpoints(parts.checkpoints) as checkpoints:
        assert set(checkpoints.shapes(4)) == set(whole["params"])
    other = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, seed=1, steps=6))
    with pytest.raises(UserError, match="step 4 was trained over another base"):
        train.train(
            other,
            LOCK,
            synthetic.Batches(cfg),
            parts,
            setup=train.make_setup(other, *synthetic.sizes_of(LOCK), mesh_of()),
        )
    with pytest.raises(UserError, match="step 4 was trained over another base"):
        restore.load_model(parts, other, LOCK, 4, mesh_of())
    assert (
        restore.load_model(parts, cfg, LOCK, 0, mesh_of()).loaded.params.keys()
        == parameters(base_of("decoder")).keys()
    )


# ---- asking


def runner_of(name: str, method: str) -> Runner:
    """A Runner of a moved adapter over the base of `base_of`."""
    model = moved(adapted(name, method))
    return Runner(
        LoadedModel(
            graphdef=nnx.graphdef(model),
            params=parameters(model),
            mesh=mesh_of(),
            model=MODELS[name],
            bos_id=synthetic.BOS,
            eos_id=synthetic.EOS,
            pad_id=0,
            batch_size=16,
            peft=METHODS[method],
        )
    )


@pytest.mark.parametrize(
    ("name", "method"),
    [("decoder", "prefix"), ("prefix_lm", "prompt"), ("t5", "prefix"), ("t5", "prompt")],
)
def test_cached_generation_and_ranking_are_a_full_pass(name, method):
    runner = runner_of(name, method)
    prompts = [p for p, _, _ in synthetic.examples(4, seed=7)]
    prompts[0] = prompts[0] * 2  # lengths differ, so rows are padded
    answers = [a["tokens"] for a in runner.generate(prompts, 5)]
    options = [[a or [3], [4, 5]] for a in answers]
    ranked = runner.rank(prompts, options)
    rows = [[(p, (a + [7] * 5)[:5], 0)] for p, a in zip(prompts, answers, strict=True)]
    batch = batch_of(name, rows)
    out = np.asarray(
        jax.nn.log_softmax(logits(module_of(runner.loaded.graphdef, runner.loaded.params), batch))
    )
    plain = np.asarray(jax.nn.log_softmax(logits(base_of(name), batch)))
    compared = 0
    for i, (answer, option) in enumerate(zip(answers, options, strict=True)):
        begin = int(np.flatnonzero(batch["decoder_loss_weights"][i])[0])
        at = batch["loss_positions"][i].tolist().index(begin)
        best = out[i, at : at + 6].argmax(-1).tolist()
        assert best[: len(answer)] == answer
        if len(answer) == 5:
            compared += 1
            want = sum(out[i, at + j, t] for j, t in enumerate([*option[0], synthetic.EOS]))
            assert ranked[i][0]["logprob"] == pytest.approx(float(want), abs=2e-3)
    assert compared and np.abs(out - plain).max() > 0.1


def test_several_adapters_over_one_base(tmp_path):
    """Their Runners hold the base's arrays themselves, and each answers as if it were alone."""
    name = "decoder"
    base = changed(
        runner_of(name, "lora"),
        graphdef=nnx.graphdef(base_of(name)),
        peft=PeftConfig(),
        params=parameters(base_of(name)),
    )
    mark = peft.fingerprint(base.loaded.params)
    prompts, options = [[5, 6, 7], [9, 8]], [[[3], [4, 5]], [[3], [4]]]
    for method in ("lora", "prefix"):
        peft_files.save(
            tmp_path / method,
            MODELS[name],
            METHODS[method],
            runner_of(name, method).loaded.params,
            mark,
            "base",
        )
    several = {m: restore.with_adapter(base, str(tmp_path / m)) for m in ("lora", "prefix")}
    plain = base.rank(prompts, options)
    for method, runner in several.items():
        assert all(runner.loaded.params[p] is v for p, v in base.loaded.params.items())
        alone, here = runner_of(name, method).rank(prompts, options), runner.rank(prompts, options)
        for a, b, c in zip(alone, here, plain, strict=True):
            assert [x["logprob"] for x in b] == pytest.approx([x["logprob"] for x in a], abs=1e-4)
            assert [x["logprob"] for x in b] != pytest.approx([x["logprob"] for x in c], abs=1e-2)
    moved_base = changed(
        base, params={**base.loaded.params, "embedding": base.loaded.params["embedding"] + 0.1}
    )
    with pytest.raises(UserError, match="trained over another base: the parameters differ"):
        restore.with_adapter(moved_base, str(tmp_path / "lora"))
    with pytest.raises(UserError, match="a prefix cannot be merged"):
        restore.merged(several["prefix"])
    assert restore.merged(several["lora"]).keys() == base.loaded.params.keys()


# ---- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--peft.rank=0"], "peft.rank=0: must be at least 1"),
        (["--peft.method=lroa"], "did you mean 'lora'"),
        (
            ["--peft.method=prefix", "--peft.length=256"],
            "peft.length=256: a prefix longer than the context, data.sequence_length=256",
        ),
        (
            ["--peft.method=prompt", "--peft.length=900"],
            "peft.length=900: a prompt longer than the context",
        ),
        (["--peft.dropout=1"], "peft.dropout=1.0: a share"),
        (["--peft.method=lora", "--peft.alpha=0"], "peft.alpha=0.0: must be above 0"),
        (["--peft.method=lora", "--peft.alpha=nan"], "peft.alpha=nan: must be a finite number"),
        (["--peft.method=lora", "--peft.alpha=inf"], "peft.alpha=inf: must be a finite number"),
        (["--peft.method=lora", "--peft.targets="], "peft.targets is empty"),
        (["--peft.rank=4"], "peft.rank is a setting of lora; this run's peft.method=full has none"),
        (
            ["--peft.base_dtype=bfloat16"],
            "peft.base_dtype is a setting of lora and prefix and prompt",
        ),
        (
            ["--peft.method=prefix", "--peft.dora=true"],
            "peft.dora is a setting of lora; this run's peft.method=prefix",
        ),
        (
            ["--peft.method=prompt", "--peft.prefix_hidden=8"],
            "peft.prefix_hidden is a setting of prefix",
        ),
        (
            ["--peft.method=lora", "--peft.length=4"],
            "peft.length is a setting of prefix and prompt",
        ),
    ],
)
def test_settings_that_cannot_be_meant(settings, message, tmp_path):
    file = tmp_path / "recipe.py"
    file.write_text(
        "from itx.config import *\ndef get_config(quick=False):\n    return RunConfig()\n"
    )
    with pytest.raises(UserError, match=message):
        recipe.load(str(file), settings)


def test_a_recipes_settings_of_another_method_give_way_to_the_command_line(tmp_path):
    """Who asks a LoRA's recipe for a prefix has not typed its rank; a recipe that says a rank and
    no method means it."""
    fields = dataclasses.fields(PeftConfig)
    # an adapter says its method itself
    assert [f.name for f in fields if not f.metadata["methods"]] == ["method", "adapter"]
    file = tmp_path / "recipe.py"
    lines = (
        "from itx.config import *\n"
        "def get_config(quick=False):\n    return RunConfig(peft=PeftConfig({}))\n"
    )
    file.write_text(lines.format("method='lora', rank=4, dora=True"))
    for method in ("full", "prefix"):
        assert recipe.load(str(file), [f"--peft.method={method}"])[0].peft.rank == 4
    with pytest.raises(
        UserError, match="peft.rank is a setting of lora; this run's peft.method=prefix"
    ):
        recipe.load(str(file), ["--peft.method=prefix", "--peft.rank=2"])
    file.write_text(lines.format("rank=4"))
    with pytest.raises(
        UserError, match="peft.rank is a setting of lora; this run's peft.method=full"
    ):
        recipe.load(str(file))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((r".*/wqq",), r"peft.targets: '.\*/wqq' matches no parameter; valid: "),
        (
            (r".*",),
            r"peft.targets: .* also matches .* and \d+ more; LoRA is for the matrices wq, wk",
        ),
        (
            (r".*/(wq|.*norm/scale)",),
            r"also matches decoder/blocks/attention/k_norm/scale and 4 more",
        ),
        ((r"(",), r"not a regular expression"),
        (("head",), r"'head' matches no parameter"),
    ],
)
def test_targets_that_match_nothing_or_too_much(targets, message):
    cfg = configured("decoder", "lora")
    cfg = dataclasses.replace(cfg, peft=dataclasses.replace(cfg.peft, targets=targets))
    with pytest.raises(UserError, match=message):
        train.make_setup(cfg, *synthetic.sizes_of(LOCK), mesh_of())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "t5"])
def test_an_adapter_from_the_command_line_to_its_folder_and_back(
    name, tmp_path, capsys, monkeypatch
):
    """Train over a model of `transformers`, export, score over the base, module_of."""
    golden = REPO / "tests" / "golden" / "hf" / name
    architecture = "encoder_decoder" if name == "t5" else "decoder"
    recipe = samples.write_recipe(
        tmp_path,
        tmp_path / "cache",
        mixture="sample_held",
        architecture=architecture,
        sequence_length=256,
        target_length=128,
    )
    run, out = tmp_path / "run", tmp_path / "adapter"
    words = [
        f"--model.pretrained={golden}",
        "--run_dir",
        run,
        "--eval.before=false",
        "--peft.method=lora",
        "--peft.dora=true",
        "--peft.base_dtype=bfloat16",
    ]
    assert "parameters train (" in samples.itx("train", recipe, *words).stderr
    for words in (
        ("convert", "export", run, out),
        ("convert", "export", run, tmp_path / "merged", "--module_of"),
        (
            "eval",
            run,
            "--adapter",
            out,
            "--adapter",
            out,
            "--max_examples",
            "1",
            "--json",
            tmp_path / "scores.json",
        ),
    ):
        assert cli.main([str(w) for w in words]) == 0
    about = json.loads((out / peft_files.CONFIG).read_text())
    assert about["base_model_name_or_path"] == str(golden) and about["use_dora"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == [str(out)] and scores[str(out)]["rows"]
    # another setting scores the adapter too, and the step of a run's own adapter is none of its
    # base
    used, whole = [], restore.with_adapter
    monkeypatch.setattr(
        restore, "with_adapter", lambda base, folder: used.append(folder) or whole(base, folder)
    )
    words = ["eval", str(run), "--adapter", str(out), "--max_examples", "1"]
    assert cli.main([*words, "--shots", "0", "--json", str(tmp_path / "shots.json")]) == 0
    found = json.loads((tmp_path / "shots.json").read_text())[str(out)]
    assert used == [str(out)] and found["settings"]["0"]["rows"]
    assert (
        found["step"] == f"adapter-{peft_files.key(out)}-0"
        and (run / "eval" / found["step"] / "test-0shots").is_dir()
    )
    for more, said in (
        (["--step", "4"], "--step 4"),
        (["--adapter", str(tmp_path / "gone")], "gone holds no adapter"),
    ):
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    first, last = load_file(golden / hf.SINGLE), load_file(tmp_path / "merged" / hf.SINGLE)
    moved = {
        n
        for n in first
        if not np.array_equal(first[n].astype(np.float32), last[n].astype(np.float32))
    }
    assert len(moved) == len(
        [
            n
            for n in first
            if first[n].ndim == 2
            and ("proj" in n or "Attention" in n or "DenseRelu" in n)
            and "relative" not in n
        ]
    )
    # and a run may begin from the merged model
    again = samples.itx(
        "train",
        recipe,
        f"--model.pretrained={run}",
        "--run_dir",
        tmp_path / "again",
        "--eval.before=false",
    )
    assert "report:" in again.stdout
    begun = pretrained.find(str(run))
    cfg = dataclasses.replace(pretrained.model_config(begun), num_layers=1, encoder_layers=0)
    with pytest.raises(UserError, match="params are not those of this config: .* there, .* here"):
        restore.load_pretrained(str(run), cfg, model_specs(cfg, cfg.vocab_size, mesh_of()))
