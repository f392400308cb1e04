# SPDX-License-Identifier: Apache-2.0
"""The wheel: what is in it, what it asks for, and that it works where there is no clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from setuptools import build_meta

from itx import recipe, shipped
from itx.errors import UserError
from itx.tasks import fingerprint, registry
from tests import samples
from tests.conftest import REPO

SOURCES = ("itx", "tasks", "configs", "pyproject.toml", "README.md")
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
IN_WHEEL = {"itx": "itx", "tasks": "itx/bundled/tasks", "configs": "itx/bundled/configs"}
PYTHONS = ("3.11", "3.12")


def requirement(text: str) -> tuple[str, frozenset[str], str]:
    """(name, bounds, marker) of a requirement, however it is written."""
    text, _, marker = text.partition(";")
    name = re.match(r"[\w.-]+(\[\w+\])?", text.strip())[0]
    bounds = text.strip().removeprefix(name).replace(" ", "").split(",")
    return name, frozenset(b for b in bounds if b), marker.strip().replace('"', "'")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: a build leaves its folders beside what it reads."""
    folder, here = tmp_path_factory.mktemp("wheel"), os.getcwd()
    leave = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, folder / "source" / name, ignore=leave)
        else:
            shutil.copy(REPO / name, folder / "source")
    os.chdir(folder / "source")
    try:
        return folder / build_meta.build_wheel(str(folder))
    finally:
        os.chdir(here)


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    """The wheel's files as an installer lays them down."""
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_every_module_task_and_recipe_is_in_the_wheel_and_nothing_else_at_its_top(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{place}/{file.relative_to(REPO / folder)}"
        for folder, place in IN_WHEEL.items()
        for file in (REPO / folder).rglob("*")
        if file.suffix in (".py", ".jinja", ".js", ".jsonl", ".txt")
        and "__pycache__" not in file.parts
    }
    assert len(expected) > 150
    assert expected == {n for n in names if ".dist-info/" not in n}
    assert {n.split("/")[0] for n in names} == {"itx", f"itx-{metadata.version('itx')}.dist-info"}


def test_its_metadata_hold_the_one_list_of_versions(wheel):
    """Names without bounds are those that any version of serves."""
    archive = zipfile.ZipFile(wheel)
    (file,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
    lines = archive.read(file).decode().splitlines()
    asked = [x.partition(": ")[2] for x in lines if x.startswith("Requires-Dist: ")]
    asked = {requirement(r) for r in asked if "extra ==" not in r}
    assert asked == {requirement(r) for r in PYPROJECT["project"]["dependencies"]}
    bounded = {name for name, bounds, _ in asked if bounds}
    assert bounded > {"jax", "flax", "seqio", "tensorflow-text", "sentencepiece"}
    assert "Requires-Python: <3.13,>=3.11" in lines
    kept_twice = {"constraint-dependencies", "override-dependencies"} & PYPROJECT["tool"][
        "uv"
    ].keys()
    assert not kept_twice


def test_what_uv_is_told_of_tensorflow_text_is_its_own_metadata_but_for_the_build():
    """What has to be written twice is the same: pip reads tensorflow-text's metadata, uv ours."""
    (told,) = PYPROJECT["tool"]["uv"]["dependency-metadata"]
    pins = {
        name: bounds for name, bounds, _ in map(requirement, PYPROJECT["project"]["dependencies"])
    }
    assert pins[told["name"]] == {f"=={told['version']}"}
    assert metadata.version(told["name"]) == told["version"]
    own = [r for r in metadata.requires(told["name"]) if "extra ==" not in r]
    ((name, bounds, marker),) = map(requirement, own)
    assert (name, marker) == ("tensorflow", "")
    as_minor = {b.removesuffix(".0") for b in bounds}
    ours = {
        name: (bounds, marker) for name, bounds, marker in map(requirement, told["requires-dist"])
    }
    assert {b for b, _ in ours.values()} == {frozenset(as_minor)}
    assert ours["tensorflow-cpu"][1] == "sys_platform == 'linux' and platform_machine == 'x86_64'"
    assert ours["tensorflow"][1] == "sys_platform != 'linux' or platform_machine != 'x86_64'"


PROBE = """
import importlib, json, sys
from itx import cli, recipe, shipped
from itx.prepare import workers
from itx.tasks import fingerprint, registry

def file_of(module):
    return importlib.import_module(module).__file__

if __name__ == "__main__":
    assert "tasks" not in sys.modules
    code = cli.main(["tasks", "ls", "--json", "tasks.json"])
    config, origin = recipe.load("quickstart")
    with workers.pool(1) as executor:
        in_worker = executor.submit(file_of, "tasks").result()
    texts = fingerprint.of_function(registry.task("rte").fields, {"tasks"})
    json.dump({
        "code": code, "folder": str(shipped.FOLDER), "tasks": file_of("tasks"), "in_worker": in_worker,
        "origin": origin["data.mixture"], "mixture": config.data.mixture, "rte": texts,
    }, open("found.json", "w"))
"""


def probe(unpacked: Path, folder: Path) -> dict:
    """What itx of an unpacked wheel finds in a folder."""
    (folder / "probe.py").write_text(PROBE)
    done = subprocess.run(
        [sys.executable, "probe.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def test_outside_a_clone_the_registry_and_the_recipes_are_found_by_workers_too(unpacked, tmp_path):
    found, bundled = probe(unpacked, tmp_path), unpacked / "itx" / "bundled"
    assert found["code"] == 0 and found["folder"] == str(bundled) != str(shipped.FOLDER)
    assert found["tasks"] == found["in_worker"] == str(bundled / "tasks" / "__init__.py")
    assert found["origin"] == str(bundled / "configs" / "quickstart.py")
    assert found["mixture"] == recipe.load("quickstart")[0].data.mixture
    registry.load_modules(["tasks"])
    listed = {t["task"] for t in json.loads((tmp_path / "tasks.json").read_text())["tasks"]}
    assert set(samples.shipped_tasks()) == listed
    # a cache that was built in a clone serves
    fields = registry.task("rte").fields
    assert found["rte"] == fingerprint.of_function(fields, {"tasks"})
    assert found["rte"] != fingerprint.of_function(registry.task("sst2").fields, {"tasks"})


def test_tasks_of_the_folder_one_stands_in_come_first_and_installed_ones_last(
    monkeypatch, tmp_path
):
    installed = sysconfig.get_path("purelib")
    monkeypatch.setattr(sys, "path", [str(tmp_path), installed])
    shipped.put_tasks_on_path()
    shipped.put_tasks_on_path()
    assert sys.path == [str(tmp_path), str(shipped.FOLDER), installed]


def test_a_recipe_is_a_file_or_the_name_of_a_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    by_name, origin = recipe.load("quickstart")
    assert origin["data.mixture"] == str(REPO / "configs" / "quickstart.py")
    own = "from itx.config import *\ndef get_config(quick=False): return RunConfig()\n"
    (tmp_path / "quickstart.py").write_text(own)
    by_file, origin = recipe.load("quickstart.py")
    assert by_file != by_name and set(origin.values()) == {"default"}
    for wrong, why in {
        "quickstrat": "no recipe named 'quickstrat' comes with itx, and a file ends in .py",
        "configs/quickstart": "no recipe named 'configs/quickstart' comes with itx",
        "configs/quickstart.py": "config file 'configs/quickstart.py' is not there",
    }.items():
        with pytest.raises(UserError, match=f"{why}.*did you mean '(./)?quickstart(.py)?'"):
            recipe.load(wrong)


def python(version: str) -> str:
    """An interpreter of a minor version, wherever it is installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))
    for found in filter(None, [shutil.which(f"python{version}"), *of_pyenv]):
        if not subprocess.run([found, "-c", ""], capture_output=True).returncode:
            return found
    pytest.skip(f"no Python {version} on this machine")


def answers(words: list[str], folder: Path) -> str:
    """What a command prints in a folder where nothing of a clone can be found."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow  # half a gigabyte of TensorFlow for each Python
@pytest.mark.parametrize("version", PYTHONS)
def test_pip_installs_a_wheel_that_builds_and_trains(version, wheel, tmp_path):
    answers([python(version), "-m", "venv", "venv"], tmp_path)
    answers(["venv/bin/pip", "install", "--quiet", str(wheel)], tmp_path)
    assert "rte" in answers(["venv/bin/itx", "tasks", "ls"], tmp_path)
    packages = answers(["venv/bin/pip", "list", "--format=freeze"], tmp_path)
    assert "\ntensorflow==2.21" in packages and "tensorflow-cpu" not in packages
    words = [
        "venv/bin/itx",
        "train",
        "quickstart",
        "--quick",
        "--train.steps=5",
        "--eval.before=False",
    ]
    assert "report: runs/quickstart-quick/report.html" in answers(words, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_uvx_runs_a_clone_from_outside(version, wheel, tmp_path):
    itx = ["uvx", "--python", python(version), "--from", str(REPO), "itx"]
    assert "Instruction tuning" in answers([*itx, "--help"], tmp_path)
    assert "rte" in answers([*itx, "tasks", "ls"], tmp_path)
