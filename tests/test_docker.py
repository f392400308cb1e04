# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles are read, not built: each says what an image needs, and names only what is
there."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPO

FILES = sorted((REPO / ".docker").glob("*.Dockerfile"))
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
KNOWN = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
Lines = list[tuple[str, str]]  # (instruction, the rest)


def instructions(file: Path) -> Lines:
    text = re.sub(r"\\\n", " ", file.read_text("utf-8"))
    lines = [line.strip() for line in text.splitlines()]
    found = [tuple(x.split(None, 1)) for x in lines if x and not x.startswith("#")]
    assert all(len(x) == 2 and x[0] in KNOWN for x in found), found
    return found


def rests(lines: Lines, instruction: str) -> list[str]:
    return [rest for name, rest in lines if name == instruction]


def carried() -> set[str]:
    """What .dockerignore lets into the build: all is left out but for what it names."""
    rules = (REPO / ".dockerignore").read_text("utf-8").splitlines()
    rules = [r for r in rules if r and not r.startswith("#")]
    assert rules[0] == "*" and rules[-1] == "**/__pycache__"
    assert all(r.startswith("!") for r in rules[1:-1])
    return {r.removeprefix("!") for r in rules[1:-1]}


def faults(lines: Lines) -> list[str]:
    """What is wrong with a Dockerfile, in words."""
    found, sources = [], set()
    for image in rests(lines, "FROM"):
        if not re.fullmatch(r"python:3\.1[12]\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", image):
            found.append(f"{image} is not pinned to one Python that itx runs on")
    for rest in rests(lines, "COPY"):
        sources |= {*shlex.split(rest)[:-1]}
    found += [f"{s} is copied and not there" for s in sources if not (REPO / s).exists()]
    found += [f"{s} is copied and ignored" for s in sources - carried()]
    found += [f"{s} is needed and not copied" for s in carried() - sources]
    users = rests(lines, "USER")
    if not users or users[-1] in ("root", "0"):
        found.append("it runs as root")
    commands = " ".join(rests(lines, "RUN"))
    if users and f"useradd --create-home {users[-1]}" not in commands:
        found.append(f"the user {users[-1]} is not made")
    if not re.search(r"\buv==\d+\.\d+\.\d+", commands):
        found.append("uv is not pinned")
    extras = set(re.findall(r"--extra (\w+)", commands))
    unknown = extras - PYPROJECT["project"]["optional-dependencies"].keys()
    found += [f"there is no extra {x}" for x in unknown]
    (entry,) = rests(lines, "ENTRYPOINT") or ["[]"]
    if json.loads(entry)[:1] != [*PYPROJECT["project"]["scripts"]]:
        found.append(f"{entry} is no command of the package")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_dockerfile_is_sound(file):
    assert faults(instructions(file)) == []


def test_they_differ_in_the_libraries_of_their_devices_alone():
    names, extras = ("cpu", "gpu", "tpu"), (" --extra cuda", " --extra tpu --extra cloud")
    assert FILES == [REPO / ".docker" / f"{n}.Dockerfile" for n in names]
    cpu, *others = map(instructions, FILES)
    for other, more in zip(others, extras, strict=True):
        of_device = [x for x in other if not x[1].startswith("NVIDIA_")]
        assert cpu != other and cpu == [(name, rest.replace(more, "")) for name, rest in of_device]


@pytest.mark.parametrize(
    "instruction, rest, fault",
    [
        ("FROM", "python:3-slim", "is not pinned"),
        ("FROM", "python:3.13.1-slim-bookworm", "is not pinned"),
        ("COPY", "setup.py ./", "setup.py is copied and not there"),
        ("COPY", "tests tests", "tests is copied and ignored"),
        ("USER", "root", "it runs as root"),
        ("USER", "somebody", "the user somebody is not made"),
        ("RUN", "uv sync --extra gpu", "there is no extra gpu"),
    ],
)
def test_a_fault_is_seen(instruction, rest, fault):
    assert any(fault in f for f in faults([*instructions(FILES[0]), (instruction, rest)]))


def test_what_is_absent_is_seen():
    lines = instructions(FILES[0])

    def without(text: str) -> list[str]:
        return faults([x for x in lines if text not in x[1]])

    assert without("configs") == ["configs is needed and not copied"]
    assert "uv is not pinned" in without("uv==")
    assert "it runs as root" in faults([x for x in lines if x[0] != "USER"])
    assert any("no command" in f for f in faults([x for x in lines if x[0] != "ENTRYPOINT"]))
