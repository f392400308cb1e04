# SPDX-License-Identifier: Apache-2.0
"""`itx plan`: small models of the real shapes of work, compiled for TPUs that are not here.

The figures of the recipes are made by `nice -n 10 uv run python -m tests.plan_table`.
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding

from itx import cli, flops, pretrained, restore
from itx import mesh as meshes
from itx.commands import plan as plan_command
from itx.config import DataConfig, EvalConfig, MeshConfig, PeftConfig, RunConfig, TrainConfig
from itx.errors import RunFailed, UserError
from itx.models import presets
from itx.plan import (
    changes,
    chips,
    compiled,
    costs,
    devices,
    fast,
    memory,
    plan,
    programs,
)
from tests import plan_table
from tests.conftest import REPO

pytest.importorskip("libtpu", reason="libtpu, the compiler of TPUs, is not installed")

SIZES = {"vocab_size": 512, "dtype": "bfloat16", "remat": "full"}


def config(model, **more) -> RunConfig:
    length = 256 if model.architecture == "decoder" else 128
    data = DataConfig(vocab_size=512, sequence_length=length, target_length=length, global_batch=8)
    ask = EvalConfig(batch_size=8, max_new_tokens=16)
    return RunConfig(model=model, data=data, mesh=MeshConfig(data=1, fsdp=-1), eval=ask, **more)


DECODER = config(presets.llama(256, 2, 2, 1, 256, **SIZES))
T5_LORA = config(
    presets.t5(256, 2, 4, 256, **SIZES),
    peft=PeftConfig(method="lora", targets=(r".*/(wq|wv)",), base_dtype="bfloat16"),
)


@pytest.fixture(scope="module", autouse=True)
def several_may_compile():
    """Another test process, or a person, may have libtpu at the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield


def planned(cfg: RunConfig, topology: str, slices: int, *names: str) -> dict[str, dict]:
    asked = plan.ask(cfg, chips.topology(topology, slices), print)
    return {p["program"]: p for p in plan.plan(asked, list(names), print)}


@pytest.fixture(scope="module")
def decoder() -> dict[str, dict]:
    return planned(DECODER, "v5e-4", 1, "train", "forward", "rank", "decode")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "slice_of", "number"),
    [
        ("v5e:4x4", "v5e:4x4", 16),
        ("v5litepod-16", "v5e:4x4", 16),
        ("v5p-128", "v5p:4x4x4", 64),
        ("v6e-8", "v6e:2x4", 8),
        ("tpu7x-8", "tpu7x:2x2x1", 4),
        ("V5P:2x2x2", "v5p:2x2x2", 8),
    ],
)
def test_names_of_slices(name, slice_of, number):
    topology = chips.topology(name)
    assert (topology.name, topology.chips) == (slice_of, number)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v5e-17", "near are v5e-16 (v5e:4x4) and v5e-32 (v5e:4x8)"),
        ("v5f:4x4", "did you mean 'v5e:4x4'"),
        ("v5p:4x4", "3 dimensions"),
        ("h100:8", "no such TPU"),
        ("v5e:64x64", "4096 chips"),
        ("v5e", "no such TPU"),
        ("", "no such TPU"),
    ],
)
def test_a_name_that_means_none_is_refused_in_one_line(name, told):
    with pytest.raises(UserError) as e:
        chips.topology(name)
    assert told in str(e.value) and "\n" not in str(e.value)


def test_figures_are_those_that_jax_has_too():
    """A second source: what Pallas knows of each chip."""
    tpu_info = pytest.importorskip("jax._src.tpu_info")
    kinds = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "tpu7x": "TPU7x"}
    for chip in chips.CHIPS:
        version = tpu_info.chip_version_from_device_kind(kinds[chip.name])
        cores = version.num_physical_tensor_cores_per_chip
        info = tpu_info.get_tpu_info_for_chip(version, 1)
        assert info.bf16_ops_per_second * cores == pytest.approx(chip.flops, rel=0.01)
        assert info.hbm_capacity_bytes * cores == pytest.approx(chip.hbm_bytes, rel=0.1)
        assert info.mem_bw_bytes_per_second * cores == pytest.approx(chip.hbm_rate, rel=0.15)
        assert chip.usable_bytes * chip.devices <= 1.01 * chip.hbm_bytes


# ---------------------------------------------------------------- programs


def test_a_decoder_s_step_is_compiled_with_splash(decoder):
    train = decoder["train"]
    assert train["fits"] and not train["reason"] and train["mesh"] == {"fsdp": 4}
    assert train["assumed"] == {"loops": [], "groups": 0}
    assert train["peak_bytes"] > train["argument_bytes"] > 0
    assert sum(train["parts"].values()) == train["peak_bytes"]
    assert {"parameters that train", "optimizer state", "batch"} <= {*train["parts"]}
    # AdamW's two moments are twice the parameters, in the same type
    parts = train["parts"]
    assert parts["optimizer state"] == pytest.approx(2 * parts["parameters that train"], rel=1e-3)


def test_evaluation_s_programs_have_no_gradient(decoder):
    """Rows as long as a training row, the same model: a third of its products, and no copy of the
    output layer's for all places where options are ranked."""
    forward, rank, train = (decoder[name] for name in ("forward", "rank", "train"))
    assert forward["fits"] and rank["fits"]
    rows = {p["program"]: int(p["shape"].split()[0]) for p in (forward, train)}
    per_row = forward["flops"] / rows["forward"]
    assert 3 * per_row < train["flops"] / rows["train"] < 5 * per_row
    assert not any("optimizer state" in p["parts"] for p in (forward, rank))


def test_decode_takes_the_cache_that_prefill_leaves(decoder):
    decode = decoder["decode"]
    assert decode["fits"] and decode["parts"]["cache"] > 0
    assert decode["held_bytes"] > 0  # the float32 parameters, which the loop does not read
    # layers x (k, v) x rows x heads x slots x head_dim in bfloat16, rows split by no axis here
    rows, slots = (int(w) for w in (decode["shape"].split()[0], 256))
    assert decode["parts"]["cache"] >= 2 * 2 * rows * 1 * slots * 128 * 2 / 4
    # each of 16 tokens passes through the layers, prefill's 240 once
    assert decoder["prefill"]["flops"] > decode["flops"] > 0


def test_splash_runs_where_the_mesh_is_a_tpu_s(monkeypatch):
    """The platform is the mesh's: JAX's own backend is a CPU here."""
    asked = plan.ask(DECODER, chips.topology("v5e:1x1"), print)
    assert jax.default_backend() == "cpu"
    for attention, kernels in (("auto", True), ("xla", False)):
        model = dataclasses.replace(DECODER.model, attention=attention)
        cfg = dataclasses.replace(DECODER, model=model)
        jaxpr = str(programs.trace("train", cfg, asked.mesh).traced.jaxpr)
        assert ("pallas_call" in jaxpr) is kernels


def test_t5_lora_fits_and_has_no_optimizer_state_of_its_base():
    train = planned(T5_LORA, "v5e-4", 1, "train")["train"]
    parts = train["parts"]
    assert train["fits"]
    assert 0 < parts["optimizer state"] < parts["frozen parameters"] / 4


def test_two_slices_send_each_gradient_once_over_the_slow_network():
    cfg = dataclasses.replace(DECODER, model=dataclasses.replace(DECODER.model, num_layers=1))
    train = planned(cfg, "v5e:1x1", 2, "train")["train"]
    assert train["mesh"] == {"replica": 2}
    (between,) = (c for c in train["collectives"] if c["network"] == "DCN")
    assert between["kind"] == "all-reduce"
    shapes = flat_parameters(cfg)
    # a ring's all-reduce of n = 2 sends what it reduces once: bfloat16, the output layer's float32
    assert 2 * shapes <= between["moved_bytes"] <= 4.2 * shapes
    assert train["seconds"]["dcn"] == between["moved_bytes"] / chips.CHIPS[0].dcn_rate


def flat_parameters(cfg: RunConfig) -> int:
    from itx import restore

    state, _ = restore.plan_model(cfg, 512).shapes
    return sum(x.size for x in state["params"].values())


def test_what_does_not_fit_is_told_with_the_compiler_s_reason(capsys):
    """300 GiB on a chip of 16."""
    huge = dataclasses.replace(DECODER.model, vocab_size=2**27)
    cfg = dataclasses.replace(DECODER, model=huge)
    train = planned(cfg, "v5e:1x1", 1, "train")["train"]
    assert not train["fits"] and "exceeds available HBM (15.75G)" in train["reason"]
    assert "\n" not in train["reason"]
    asked = plan.ask(cfg, chips.topology("v5e:1x1"), print)
    tried = changes.proposals(asked, 60.0, print)
    assert {t["verdict"] for t in tried} == {"arguments alone do not fit"}


def test_a_change_fits_only_if_the_compiler_said_so(decoder, monkeypatch):
    """On a chip that has a byte too little for the step as it is."""
    monkeypatch.setattr(changes, "WANTED", 1)
    peak = decoder["train"]["peak_bytes"]
    topology = chips.topology("v5e-4")
    small = topology._replace(chip=topology.chip._replace(usable_bytes=peak - 1))
    asked = plan.ask(DECODER, small, print)
    tried = changes.proposals(asked, 1.0, print)
    seen = [t for t in tried if "peak_bytes" in t]
    assert seen and len(seen) < len(tried)
    for t in tried:
        if t in seen:
            assert t["verdict"] == ("fits" if t["peak_bytes"] < peak else "does not fit")
        else:
            assert t["verdict"].startswith(("not compiled: ", "is refused", "arguments alone"))


def test_changes_leave_out_what_the_run_has():
    found = [c.settings for c in changes.changes(DECODER, 4)]
    assert found and all("--model.remat=full" not in c for c in found)
    kept = dataclasses.replace(DECODER, model=dataclasses.replace(DECODER.model, remat="none"))
    assert next(changes.changes(kept, 4)).settings == ("--model.remat=full",)
    assert any("--peft.method=lora" in c for c in found)
    assert not any("--peft.method=lora" in c.settings for c in changes.changes(T5_LORA, 4))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--topology=v5p-64", "--fast"], 0),
        (["--topology=v5e-1", "--fast"], 1),
        (["--topology=v5q-16", "--fast"], 2),
        (["--topology=v5e-16", "--programs=training"], 2),
        (["--topology=v5e-16", "--mesh.fsdp=3"], 2),
        (["--topology=v5p-64", "--fast", "--programs=train"], 2),
        (["--topology=v5p-64", "--fast", "--max_seconds=900"], 2),
        (["--topology=v5p-64", "--fast", "--price_per_chip_hour=0"], 2),
    ],
)
def test_exit_codes(tmp_path, words, code, capsys):
    out = tmp_path / "plan.json"
    recipe, small = "configs/qwen3_4b.py", ("--data.global_batch=32", "--train.microbatches=1")
    try:
        found = cli.main(["plan", recipe, *words, f"--json={out}", *small])
    except SystemExit as e:
        found = e.code
    assert found == code
    assert out.is_file() is (code != 2)
    if code == 2:
        assert capsys.readouterr().err.strip().count("\n") == 0


def test_a_batch_that_training_refuses_is_refused_here():
    """Before anything is compiled, and with --fast too: 8 rows over 4 devices in 4 parts."""
    train = TrainConfig(microbatches=4)
    with pytest.raises(UserError, match="data.global_batch=8 is not divisible by 16"):
        plan.ask(dataclasses.replace(DECODER, train=train), chips.topology("v5e-4"), print)


PAGE = re.findall(r"^itx plan (.*)$", (REPO / "itx/plan/README.md").read_text("utf-8"), re.M)
TABLE = [
    f"configs/{recipe}.py --topology={topology} {' '.join(more)}"
    for recipe, topology, more in plan_table.MACHINES.values()
]


@pytest.mark.parametrize("words", [*PAGE, *TABLE])
def test_the_page_s_examples_and_rows_are_runs_that_training_takes(words):
    parser = argparse.ArgumentParser()
    plan_command.add_arguments(parser)
    args, overrides = parser.parse_known_args(words.split())
    config, _ = pretrained.load_recipe(str(REPO / args.config), overrides, False, absent=True)
    plan.ask(config, chips.topology(args.topology, args.slices), print)


def test_fast_knows_the_arguments_exactly(decoder):
    asked = plan.ask(DECODER, chips.topology("v5e-4"), print)
    predicted = fast.predict(asked)
    known = decoder["train"]["argument_bytes"]
    assert predicted["argument_bytes"] == pytest.approx(known, rel=0.03)


def test_fast_asks_which_attention_runs():
    """With attention="xla" the scores of 256 x 256 places stay: 3 times, 2 heads, 2 layers, 2 rows
    of a device, bfloat16."""
    kept = []
    for attention in ("auto", "xla"):
        model = dataclasses.replace(DECODER.model, attention=attention, remat="none")
        cfg = dataclasses.replace(DECODER, model=model)
        asked = plan.ask(cfg, chips.topology("v5e-4"), print)
        kept.append(fast.kept_bytes(asked.config, asked.mesh))
    assert kept[1] - kept[0] == 3 * 2 * 256 * 256 * 2 * 2 * 2


# ---------------------------------------------------------------- counts


def test_flops_count_a_loop_s_body_as_often_as_it_runs():
    w = jnp.ones((8, 8))

    def looped(x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jax.checkpoint(looped)(x)))(x)

    x = jnp.ones((4, 8))
    once = 2 * 4 * 8 * 8
    assert flops.matmul_flops(jax.make_jaxpr(looped)(x)) == 5 * once
    # once forward, once again for the backward pass, and the gradient of x
    assert flops.matmul_flops(jax.make_jaxpr(gradient)(x)) in (10 * once, 15 * once)
    assert jax.jit(looped).lower(x).compile().cost_analysis()["flops"] < 5 * once


def test_the_model_of_time_takes_the_slowest_roof():
    facts = {
        "flops": 197e12 * 4 * 2,
        "hbm_bytes": 819e9,
        "collectives": [{"network": "ICI", "moved_bytes": 100e9}],
    }
    topology = chips.topology("v5e-4")
    took = costs.seconds(facts, 4, topology)
    assert took["compute"] == pytest.approx(2) and took["hbm"] == pytest.approx(1)
    assert took["at_best"] == pytest.approx(2) and took["in_turn"] == pytest.approx(2.5)
    money = costs.cost(DECODER, took, topology, 1.5)
    assert money["tokens_per_hour"][0] == pytest.approx(8 * 256 * 1800)
    assert money["money"][0] == pytest.approx(2 * 1000 / 3600 * 4 * 1.5)


# ---------------------------------------------------------------- held besides


def test_only_scores_on_dev_run_beside_the_training_state(monkeypatch):
    held = {}

    def compile_program(name, program, topology, layers, beside):
        held[name] = beside
        return {"program": name, "fits": True, "reason": "", "compile_seconds": 0.0}, None

    monkeypatch.setattr(compiled, "compile_program", compile_program)
    for every in (0, 10):
        cfg = dataclasses.replace(DECODER, eval=EvalConfig(every=every, batch_size=8))
        planned(cfg, "v5e-4", 1, "train", "forward", "rank", "prefill")
        assert held["train"] == held["forward"] == 0
        assert (held["rank"] > 0) == (held["prefill"] > 0) == (every > 0)


@pytest.mark.parametrize(("mesh", "shared"), [((4, 1), True), ((1, 4), False)])
def test_parameters_that_both_split_alike_are_held_once(mesh, shared):
    """data=4 is laid out for generation as it is; of fsdp=4 two devices split by tensor then, and
    two hold the same: no parameter stays as it is."""
    cfg = dataclasses.replace(DECODER, mesh=MeshConfig(data=mesh[0], fsdp=mesh[1]))
    asked = plan.ask(cfg, chips.topology("v5e-4"), print)
    state, _ = restore.state_specs(restore.plan_model(cfg, 512), asked.mesh)
    of = memory.argument_bytes({"all": state, "moments": restore.besides_params(state)})
    held = plan.bytes_beside_dev(asked)
    assert held == of["moments"] + 4 if shared else held == of["all"]  # 4: the step's number


@pytest.mark.parametrize(
    ("mesh", "names", "shared"),
    [
        ((4, 1), ("embed", "heads"), True),
        ((1, 4), ("embed", "heads"), False),
        ((1, 4), ("layers", None), True),
    ],
)
def test_a_parameter_that_is_split_alike_lies_in_the_same_memory(mesh, names, shared):
    """What the rule above rests on, on this machine's devices."""
    config = MeshConfig(data=mesh[0], fsdp=mesh[1])
    training = meshes.make_mesh(config, jax.devices()[:4])
    asked = meshes.for_generation(training, heads=2)
    of_training, of_asked = (
        NamedSharding(m, meshes.spec(names, (8, 2), m, meshes.PARAMETERS))
        for m in (training, asked)
    )
    x = jax.device_put(jnp.ones((8, 2)), of_training)
    y = jax.device_put(x, of_asked)
    first, second = ([s.data.unsafe_buffer_pointer() for s in a.addressable_shards] for a in (x, y))
    assert of_training.is_equivalent_to(of_asked, 2) is shared
    assert (first == second) is shared


# ---------------------------------------------------------------- the machine


def test_a_second_process_is_told_who_has_the_compiler():
    """One holds libtpu for as long as the other asks; a third that has it refuses both, alike."""
    env = {k: v for k, v in os.environ.items() if k != "ALLOW_MULTIPLE_LIBTPU_LOAD"}
    ask = "from itx.plan import chips, devices\nt = chips.topology('v5e-4')\n"
    hold = f"{ask}try:\n devices.devices(t)\nexcept Exception: pass\nprint('held', flush=True)\ninput()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    try:
        assert holder.stdout.readline().strip() == b"held"
        told = subprocess.run(
            [sys.executable, "-c", f"{ask}devices.devices(t)"], env=env, capture_output=True
        )
        assert told.stderr.decode().strip().endswith(devices.ONE_PROCESS)
    finally:
        holder.communicate(b"\n")


def test_without_the_compiler_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="uv sync --extra plan"):
        devices.devices(chips.topology("v5e-4"))


def test_a_shape_that_the_compiler_does_not_know_is_refused_in_one_line():
    with pytest.raises(UserError, match="v5e:3x3.*not divisible") as e:
        devices.devices(chips.topology("v5e:3x3"))
    assert "\n" not in str(e.value)


def test_a_replica_stays_in_its_slice():
    """Else gradients of each layer would cross the slow network; two replicas do not fit three
    slices."""
    _, mesh, lines = devices.mesh_of(DECODER, chips.topology("v5e:2x2", 2))
    assert dict(mesh.shape)["replica"] == 2 and lines
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    two = dataclasses.replace(DECODER, mesh=MeshConfig(replica=2, data=1, fsdp=-1))
    with pytest.raises(UserError, match="replicas lie in whole slices"):
        devices.mesh_of(two, chips.topology("v5e:2x2", 4))


@pytest.mark.parametrize(
    ("topology", "slices"), [("v6e:4x4", 1), ("v5p:4x4x4", 1), ("v5e:4x4", 2), ("tpu7x:2x2x1", 1)]
)
def test_two_axes_of_a_mesh_may_share_one_of_the_torus(topology, slices):
    """A torus of 4 x 4 has no axis of two."""
    cfg = dataclasses.replace(DECODER, mesh=MeshConfig(data=1, fsdp=-1, tensor=2))
    _, mesh, _ = devices.mesh_of(cfg, chips.topology(topology, slices))
    assert (mesh.shape["tensor"], mesh.shape["replica"]) == (2, slices)
    assert len({*mesh.devices.flat}) == mesh.size > 2


def test_devices_that_are_no_torus_keep_their_order():
    given = jax.devices()[:8][::-1]
    mesh = meshes.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), given)
    assert mesh == jax.make_mesh((1, 2, 2, 2), meshes.AXES, (AxisType.Auto,) * 4, devices=given)


class Failing:
    """A program whose compilation fails."""

    def __init__(self, words: str):
        self.words = words

    def lower(self):
        return self

    def compile(self, options):
        raise jax.errors.JaxRuntimeError(self.words)


@pytest.fixture(scope="module")
def step():
    return programs.trace("train", DECODER, plan.ask(DECODER, chips.topology("v5e-4"), print).mesh)


@pytest.mark.parametrize(
    "words", ["RESOURCE_EXHAUSTED: E1000: no room", "INTERNAL: CompileTimeHbmOom: no room"]
)
def test_what_has_no_room_does_not_fit(step, words):
    traced = Failing(words)
    traced.jaxpr = step.traced.jaxpr
    asked = step._replace(traced=traced)
    facts, executable = compiled.compile_program("train", asked, chips.topology("v5e-4"), [2])
    assert executable is None and not facts["fits"] and "no room" in facts["reason"]


def test_a_compiler_that_fails_says_nothing_of_memory(step, monkeypatch):
    """No verdict follows, and no search for settings; of a change that is all it tells."""
    traced = Failing("INTERNAL: Mosaic failed\nto compile")
    traced.jaxpr = step.traced.jaxpr
    monkeypatch.setattr(programs, "trace", lambda *given: step._replace(traced=traced))
    asked = plan.ask(DECODER, chips.topology("v5e-4"), print)
    told = "train: the compiler fails: INTERNAL: Mosaic failed to compile"
    with pytest.raises(RunFailed, match=told):
        plan.plan(asked, ["train"], print)
    tried = changes.proposals(asked, 60.0, print)
    failed = [t for t in tried if t.get("reason") == told]
    assert failed and {t["verdict"] for t in failed} == {"the compiler fails"}


def test_a_refusal_is_one_line():
    error = RuntimeError("RESOURCE_EXHAUSTED: E1: no\nroom. See https://x for more")
    assert compiled.refusal(error) == "E1: no room."
    assert compiled.refusal(RuntimeError("INTERNAL: bug")) == "the compiler fails: INTERNAL: bug"
