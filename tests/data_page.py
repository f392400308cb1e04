# SPDX-License-Identifier: Apache-2.0
"""Write itx/data/README.md: what the whole of a folder of public data is, as the audit of one
mixture tells it.

    uv run python -m tests.data_page FOLDER       FOLDER: laid out as tasks/files.py says; two
                                                  minutes on two cores

The mixture `all_files` is built twice, into two caches, and every byte of both is compared. No
number there is typed.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from itx.audit.sentences import accounts, reasons
from tests import leak_table
from tests.conftest import REPO

PAGE = REPO / "itx" / "data" / "README.md"
MUCH = 0.1  # of a task's records: pairs of tasks that share so many are named
SETTINGS = (
    "--data.mixture=all_files",
    "--data.sequence_length=1024",
    "--data.target_length=512",
    "--eval.tasks=",
)


def audit(root: str, cache: Path) -> dict:
    out = cache.with_suffix(".json")
    words = [
        "data",
        "audit",
        "configs/real_mix.py",
        f"--data.root={root}",
        f"--data.cache_dir={cache}",
        *SETTINGS,
    ]
    subprocess.run(
        [sys.executable, "-m", "itx.cli", *words, "--json", str(out)],
        cwd=REPO,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return json.loads(out.read_text())


def digests(cache: Path) -> dict[str, str]:
    """File -> hash, of all that the build wrote."""
    return {
        str(f.relative_to(cache)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(cache.rglob("*"))
        if f.is_file()
    }


def families(tasks: dict[str, dict]) -> dict[str, list[dict]]:
    """The variants of a family together: `ni.*`, `flan_cot.*`, …; others by themselves."""
    out: dict[str, list[dict]] = {}
    for name, facts in tasks.items():
        out.setdefault(f"{name.split('.')[0]}.*" if "." in name else name, []).append(facts)
    return out


def table(tasks: dict[str, dict]) -> str:
    head = [
        "task",
        "variants",
        "read",
        "kept",
        "skipped",
        "% of examples",
        "% of target tokens",
        "median input / target",
        "% unknown",
        "why skipped",
    ]
    rows = [head, ["---"] * len(head)]
    for name, of in families(tasks).items():
        total = lambda key: sum(f[key] for f in of)  # noqa: B023,E731
        skipped: Counter = Counter()
        for f in of:
            skipped.update(f["skipped"])
        middle = sorted(of, key=lambda f: f["input_length"]["median"])[len(of) // 2]
        unknown = sum(f["unknown_share"] * f["kept"] for f in of) / total("kept")
        rows.append([
            f"`{name}`", str(len(of)), f"{total('read'):,}", f"{total('kept'):,}", f"{skipped.total():,}", f"{total('rate'):.1%}",
            f"{total('target_share'):.1%}", f"{middle['input_length']['median']:.0f} / {middle['target_length']['median']:.0f}",
            f"{unknown:.1%}", reasons(skipped),
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def main(root: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = (audit(root, Path(folder) / name) for name in ("one", "two"))
        one, two = (digests(Path(folder) / name) for name in ("one", "two"))
        size = sum(f.stat().st_size for f in (Path(folder) / "one").rglob("*") if f.is_file())
    if one != two or first != second:
        sys.exit(
            f"the two builds differ: {sorted(k for k in {*one, *two} if one.get(k) != two.get(k))[:5]}"
        )
    # a page of no run
    read = {n: {k: v for k, v in f.items() if k != "used"} for n, f in first["tasks"].items()}
    pairs = [
        f"{p['train']} by {p['evaluation']} {p['share']:.0%}"
        for p in first["leaks"]["pairs"]
        if p["share"] >= MUCH
    ]
    warnings = "".join(f"- {w}\n" for w in first["warnings"]) or "- none\n"
    PAGE.write_text(
        "# What a folder of public data holds\n\n"
        f"Written by `uv run python -m tests.data_page FOLDER`: the mixture `all_files` (tasks/files.py) under T5's vocabulary,\n"
        f"rows of 1,024 tokens and 512 loss positions. Built twice, to the same bytes: {len(one):,} files, {size / 1e6:.1f} MB.\n\n"
        f"{accounts({**first, 'tasks': read})}\n\n{table(first['tasks'])}\n\nWhat the audit warns of:\n\n{warnings}\n"
        f"Left out because the evaluation rows of these tasks ask it: "
        f"{sum(p['dropped'] for p in first['leaks']['dropped']):,} records. Of {len(first['leaks']['pairs'])} pairs of a\n"
        f"training and an evaluation task most: {', '.join(pairs)}. Pairs that still touch: {len(first['leaks']['left'])}.\n"
        f"\n{leak_table.section(PAGE.read_text(encoding='utf-8'))}",
        encoding="utf-8",
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
