# SPDX-License-Identifier: Apache-2.0
"""Before any import of JAX: eight virtual CPU devices, nothing remote, strict dtypes."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# level 0: tests compile much and compute little (compilation takes a third of the time)
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ["EPATH_USE_TF"] = "false"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# Some machines set it: then each of the suite's many processes compiles the sources of SeqIO,
# TensorFlow and JAX anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# what itx remembers of a user is there: not in the home of whoever runs the tests
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "home")
# a program is compiled once for all tests, and the commands that they run
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["XDG_CACHE_HOME"] + "/xla"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import pytest

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared" / "data"


# Groups of tests that take a minute or more. They begin first: what the two processes do last is
# short, and neither works alone for long. (pytest-xdist itself would sort by the number of tests.)
COSTLY_FIXTURES = ("quickstart", "desk", "sample_cache", "adapter_run")
LONG_FILES = (
    "generate peft train foreign kill processes commands pretrained recipes terminal meshes written "
    "retention flan checkpoints hf"
)
LONG = (*COSTLY_FIXTURES, *(f"test_{name}.py" for name in LONG_FILES.split()))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items) -> None:
    """Which tests one of the two processes (pytest-xdist) takes together: those that share a costly
    fixture, else those of a file. The long ones stand first."""

    def group(item) -> str:
        return next((f for f in COSTLY_FIXTURES if f in item.fixturenames), item.path.name)

    items.sort(key=lambda item: LONG.index(g) if (g := group(item)) in LONG else len(LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.fixture(scope="module", autouse=True)
def programs_go():
    """What a file compiled is gone after it: each program takes hundreds of memory mappings, of
    which Linux allows a process 65,530 (vm.max_map_count), and LLVM aborts the process where there
    are no more."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real public data; a test that needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED


def need(*peers: str) -> None:
    """Skip a slow test where what it compares with is not installed. Called within the test: at the
    head of a file, a run without slow tests would report the file as skipped."""
    for name in peers:
        pytest.importorskip(name, reason=f"{name} is not installed: the check against it needs it")


@pytest.fixture(scope="session")
def sample_cache(tmp_path_factory) -> Path:
    """A cache with the locks of `sample_held` and `sample_mix`, built once (importing SeqIO takes
    13 s)."""
    from itx.data import lock as locks
    from tests.samples import itx, write_recipe

    folder = tmp_path_factory.mktemp("samples")
    for mixture in ("sample_held", "sample_mix"):
        itx("data", "build", write_recipe(folder, folder / "cache", mixture=mixture))
    assert {locks.read(f)["mixture"] for f in (folder / "cache" / "locks").iterdir()} == {
        "sample_held",
        "sample_mix",
    }
    return folder / "cache"


@pytest.fixture(scope="session")
def sample_locks(sample_cache) -> dict[str, dict]:
    from itx.data import lock as locks

    found = [locks.read(f) for f in (sample_cache / "locks").iterdir()]
    return {lock["mixture"]: lock for lock in found}


@pytest.fixture(scope="session")
def adapter_run(tmp_path_factory, sample_cache):
    """(what trains it, its folder) of an adapter's run whose six steps are done, and which is not
    yet scored."""
    from tests.trainer import Trainer

    folder = tmp_path_factory.mktemp("adapter")
    trainer = Trainer(folder, sample_cache)
    assert trainer.train(folder / "run") == 130 and (folder / "run" / "checkpoints" / "6").is_dir()
    return trainer, folder / "run"


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Path:
    """A folder to type the README's commands in: the recipes are there, caches and runs stay in
    it."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "configs").symlink_to(REPO / "configs")
    return folder


@pytest.fixture(scope="session")
def quickstart(desk) -> Path:
    """The run folder of the README's first command in its quick variant, made by a process that
    then writes which modules it had imported beside it (invariant 7)."""
    import subprocess

    code = (
        "import json, sys\n"
        "from itx.cli import main\n"
        "code = main(['train', 'configs/quickstart.py', '--quick'])\n"
        "json.dump(sorted(sys.modules), open('modules.json', 'w'))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, env=one_device()
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (desk / "console.txt").write_text(done.stdout)
    return desk / "runs" / "quickstart-quick"


def one_device() -> dict[str, str]:
    """The environment of a user's shell, with one CPU device; compilation is cut short as above."""
    return {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
