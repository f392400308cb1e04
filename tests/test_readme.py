# SPDX-License-Identifier: Apache-2.0
"""The README's commands and those of the recipes' docstrings run as they stand (training in the
quick variant)."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from itx.models import presets
from tests.conftest import REPO, one_device

README = (REPO / "README.md").read_text(encoding="utf-8")
PAGES = sorted((REPO / "itx").rglob("README.md"))


def commands() -> list[str]:
    """Every `uv run itx …` line of the README, of the package's pages and of the recipes."""
    files = [*PAGES, *sorted((REPO / "configs").glob("*.py"))]
    texts = [README, *(p.read_text(encoding="utf-8") for p in files)]
    found = [re.sub(r"\s+#.*", "", line.strip()) for text in texts for line in text.splitlines()
             if line.strip().startswith("uv run itx ")]  # fmt: skip
    return list(dict.fromkeys(c for c in found if "mine" not in c))


def run(words: list[str], cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "itx.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=one_device(),
    )


# the recipes of published models: tests/test_recipes.py
ELSEWHERE = (
    "uv run itx train configs/quickstart.py",
    *(c for c in commands() if c.endswith((" --quick", " --dry-run"))),
    # a model of 98 MB that the package index gives: tests/test_package_index.py
    *(c for c in commands() if "smollm2" in c or "SmolLM2" in c),
)
QUICKSTART = [c for c in commands() if "FOLDER" not in c and c not in ELSEWHERE]
REAL = [c for c in commands() if "FOLDER" in c]


def succeeds(command: str, cwd) -> None:
    """Runs as it stands, but for the quick variants of recipes."""
    words = shlex.split(command.removeprefix("uv run itx "))
    words = [
        w.replace("runs/quickstart", "runs/quickstart-quick")
        for w in words
        if "train.steps" not in w
    ]
    if any(w.startswith("configs/") for w in words):
        words.append("--quick")
    done = run(words, cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.strip()


@pytest.mark.parametrize("command", QUICKSTART)
def test_a_command_runs(command, quickstart, desk):
    succeeds(command, desk)


@pytest.mark.slow  # minutes: the build of a whole folder of real data
@pytest.mark.parametrize("command", REAL)
def test_a_command_on_real_data_runs(command, shared, desk):
    succeeds(command.replace("FOLDER", str(shared)), desk)


def own_data(folder: Path) -> str:
    """Lays the module and the data of the section "Your own data" into a folder; the section."""
    section = README.split("## Your own data")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.S)[1]
    assert len(code.splitlines()) < 20
    (folder / "mine.py").write_text(code)
    (folder / "configs").symlink_to(REPO / "configs")
    said = {"complaint": "It broke", "question": "Where is it", "praise": "It is good"}
    lines = [
        {"text": f"{text}, no. {i}", "label": label}
        for i in range(40)
        for label, text in said.items()
    ]
    (folder / "mail.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return section


@pytest.mark.slow
def test_the_real_model_is_fetched_and_answers_and_is_tuned_on_own_data(tmp_path):
    fetch, ask = (
        next(c for c in commands() if c.startswith(f"uv run itx {words}"))
        for words in ("recipes fetch smollm2", "generate models/SmolLM2")
    )
    fetched = run(shlex.split(fetch.removeprefix("uv run itx ")), tmp_path)
    if "cannot be fetched" in fetched.stderr:
        pytest.skip(fetched.stderr)
    assert fetched.returncode == 0, fetched.stderr
    told = run(shlex.split(ask.removeprefix("uv run itx ")), tmp_path)
    assert told.returncode == 0 and "Paris" in told.stdout, told.stderr
    _, block = re.findall(r"```bash\n(.*?)```", own_data(tmp_path), re.S)
    for command in block.strip().splitlines():
        words = shlex.split(command.removeprefix("uv run itx "))
        done = run([*words, *(["--quick"] if words[0] == "train" else [])], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "smollm2_mail" / "model.safetensors").is_file()


def test_your_own_data(tmp_path):
    """The section as it stands: its module, its commands, and forty messages."""
    section = own_data(tmp_path)
    commands = re.search(r"```bash\n(.*?)```", section, re.S)[1].strip().splitlines()
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.removeprefix("uv run itx "))
        done = run(
            [*words, *(["--quick", "--eval.before=False"] if words[0] == "train" else [])], tmp_path
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    audit = json.loads((tmp_path / "runs" / "mail" / "audit.json").read_text())
    assert set(audit["tasks"]) == {"mail", "mail:fs2"} and all(
        f["used"] > 50 for f in audit["tasks"].values()
    )


def test_the_first_two_commands_are_the_main_job_and_the_tests():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    first = [re.sub(r"\s+#.*", "", line) for line in blocks[0].strip().splitlines()]
    assert first == ["uv run itx train configs/quickstart.py", "uv run pytest"]


def test_the_table_of_families_is_the_scripts():
    """All but the errors, which another CPU may round otherwise."""
    from tests.families_table import size
    from tests.readme_figures import part

    _, text, _ = part("families")
    named = dict(re.findall(r"`(\w+)` ([\d.]+ [MB])", text))
    assert named == {name: size(name) for name in presets.PUBLISHED}
    errors = re.findall(r"\| (\S+e-\d+) \|$", text, re.M)
    assert len(errors) == len(text.splitlines()) - 2 and all(0 < float(e) < 1e-4 for e in errors)


def test_the_pages_name_what_is_there():
    """The README's tree, and the links of every page."""
    tree = re.search(r"```\n(itx/ .*?)```", README, re.S)[1]
    top = re.findall(r"^(\S+)/ ", tree, re.M)
    assert top == ["itx", "tasks", "configs", "tests", "tpu"]
    assert all((REPO / name).is_dir() for name in top)
    inside = re.findall(r"(\w+)/ ", tree.splitlines()[0].split("itx/ ", 1)[1])
    assert len(inside) > 4 and all((REPO / "itx" / name).is_dir() for name in inside)
    for page in (REPO / "README.md", *PAGES):
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        for link in (x for x in links if "://" not in x):
            assert (page.parent / link).exists(), f"{page}: {link}"
    linked = {(REPO / x) for x in re.findall(r"\]\(([^)]+README.md)\)", README)}
    assert set(PAGES) <= linked


def test_help_imports_nothing_heavy():
    code = "import sys, itx.cli\ntry: itx.cli.main(['--help'])\nexcept SystemExit: pass\nprint([m for m in sys.modules if m in " \
           "('jax', 'numpy', 'tyro', 'rich', 'tensorflow', 'sentencepiece')])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_the_trainer_group_is_the_core_list_without_the_build():
    import tomllib

    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    core = {re.match(r"[\w-]+", d)[0] for d in project["project"]["dependencies"]}
    build = {
        "seqio",
        "tensorflow-datasets",
        "tensorflow-text",
        "importlib_resources",
        "pyarrow",
        "google-crc32c",
    }
    assert set(project["dependency-groups"]["trainer"]) == core - build


def test_every_test_file_is_collected(request):
    """A folder that pytest skips by its name (its list has `build`) would be green for ever."""
    skipped = request.config.getini("norecursedirs")
    folders = {p.parent.name for p in (REPO / "tests").rglob("test_*.py")}
    assert "prepare" in folders and not [
        f for f in folders for pattern in skipped if fnmatch.fnmatch(f, pattern)
    ]
