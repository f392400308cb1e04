# SPDX-License-Identifier: Apache-2.0
"""FLAN's clusters over TFDS: every task on rows in its builder's own schema (flan_probe.py), read
without TensorFlow.

uv run python -m tests.tasks.test_flan    writes tests/golden/flan.json and tasks/README.md anew
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

import tasks  # noqa: F401  (registers)
from itx.data import cache
from itx.errors import UserError
from itx.eval import metrics
from itx.prepare import check, examples, fewshot, render, sources, types
from itx.tasks import names, registry, resolve, templates
from itx.tasks.spec import Skip, function, holdout
from tasks import commonsense, dialog, mixtures, sentiment
from tasks.from_tfds import FLAN_CLUSTERS, NEIGHBOURS, origins
from tests.conftest import REPO
from tests.tasks.wordings import runs

GOLDEN = REPO / "tests" / "golden" / "flan.json"
TABLE = REPO / "tasks" / "README.md"
SPECS = {n: s for n, s in registry.TASKS.items() if getattr(s.source, "kind", "") == "tfds"}
UNSURE = "it is not possible to tell"
# A builder's name of a label -> the option that must stand in its place
MEANS = {
    **dict.fromkeys(("entailment", "e", "True", "equivalent", "duplicate", "paraphrase", "acceptable"), "yes"),
    **dict.fromkeys(("not_entailment", "contradiction", "c", "False", "not_equivalent", "not_duplicate",
                     "different_meaning", "unacceptable"), "no"),
    **dict.fromkeys(("neutral", "n"), UNSURE),
    **dict.fromkeys(("neg", "negative", "1"), "negative"), **dict.fromkeys(("pos", "positive", "2"), "positive"),
    "DESC": "description", "ENTY": "entity", "ABBR": "abbreviation", "HUM": "human", "NUM": "number", "LOC": "location",
}  # fmt: skip
# Where the label is a number of no class: how many options there are
UNNAMED = {"sentiment140": 3, "stsb": 6, "hellaswag": 4, "story_cloze": 2}


def probe(folder: Path) -> dict:
    command = [sys.executable, "-m", "tests.tasks.flan_probe", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What the builders say of every set; $TFDS_DATA_DIR holds rows of theirs."""
    folder = tmp_path_factory.mktemp("flan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield probe(folder)


def tfds_name(spec) -> tuple[str, str]:
    base, _, version = spec.source.options["name"].partition(":")
    return base, version


def items_of(spec) -> list[types.Item]:
    return list(examples.items(spec, "train", "", 0, Counter()))


class Row(dict):
    """A dict in which looking for a key that is not there is an error, `get` and `in` included."""

    def get(self, key, default=None):
        return self[key]

    def __contains__(self, key):
        return bool(self[key]) or True


def strict(value):
    return Row({k: strict(v) for k, v in value.items()}) if isinstance(value, dict) else value


def test_the_twelve_clusters_are_covered():
    sets = {tfds_name(s)[0] for s in SPECS.values()}
    assert {s.cluster for s in SPECS.values()} == set(FLAN_CLUSTERS) and len(FLAN_CLUSTERS) == 12
    assert len(sets) == len(SPECS) >= 22
    for name, spec in SPECS.items():
        assert spec.module == f"tasks.{spec.cluster}" and spec.neighbours == NEIGHBOURS.get(
            spec.cluster, ()
        ), name
        assert spec.origin and ":" in spec.source.options["name"], name
        assert all(origins(o) == (o,) or o in origins(o) for o in spec.origin), name


def test_importing_the_registry_reads_no_data_and_no_heavy_module():
    code = (
        "import sys, tasks\n"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'seqio', 'jax', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_names_versions_and_splits_are_the_builders_own(prepared):
    for name, spec in SPECS.items():
        base, version = tfds_name(spec)
        facts = prepared[base]
        assert facts["version"] == version and not facts["unknown"], (name, facts)


@pytest.mark.parametrize("name", SPECS)
def test_a_task_passes_its_checks_and_loses_nothing(prepared, name):
    spec = SPECS[name]
    assert check.check(spec, "") == []
    total, kept, ids = Counter(), 0, set()
    pool, training = fewshot.pool(spec, items_of(spec)), {i.hash for i in items_of(spec)}
    for split in ("train", "validation", "test"):
        counts: Counter = Counter()
        found = list(examples.items(spec, split, "", 0, counts))
        # exemplars are training examples other than the example
        for item in found if spec.templated else ():
            shown = {i.hash for i in fewshot.choose(pool, item, 4, 0)}
            assert len(shown) == 4 and shown <= training - {item.hash}
        assert counts["read"] == len(found) + sum(n for r, n in counts.items() if r != "read"), (
            split,
            counts,
        )
        assert not ids & {i.hash for i in found}
        ids |= {i.hash for i in found}
        total += counts
        kept += len(found)
    assert not set(total) - {"read", "no label", "another split", "the text has no answer"}
    # rows are read once for each of our splits that is cut from them, and each is in one of these
    rows = {
        s: list(sources.open_source(spec.source, s, "", 0, Counter())) for s in spec.source.files
    }
    values = [
        v
        for found in rows.values()
        for _, e in found
        for v in examples.fields_of(spec, strict(e), name, False)
    ]
    skipped = [v for v in values if isinstance(v, Skip)]
    assert kept == len(values) - len(skipped) >= 20 * len(rows)
    chosen = spec.options or any("options" in v for v in values if not isinstance(v, Skip))
    if chosen and name not in UNNAMED:  # the probe gives one row of each split no label
        parts = {instruction.partition("[")[0] for instruction in spec.source.files.values()}
        assert sum(v.reason == "no label" for v in skipped) == len(parts)


@pytest.mark.parametrize("name", SPECS)
def test_a_task_is_rendered_in_every_wording(prepared, name):
    spec = SPECS[name]
    items = items_of(spec)
    listing = [t for t in spec.templates if "options" in templates.slots(t[0])]
    assert len(listing or spec.templates) >= 5 and len(spec.heldout_templates) >= 2
    styles = set()
    for variant, which in check.variants(spec):
        parsed = names.parse(variant)
        if parsed.shots:
            continue
        gold, said = [], []
        for template in render.choices(spec, parsed, which):
            for item in items:
                r = render.render(spec, parsed, item, 0, 0, [template])
                assert (
                    r.prompt.strip() == r.prompt
                    and r.target
                    and not re.search(r"\{\w+\}", r.prompt + r.target)
                )
                gold.append(list(r.references))
                said.append(metrics.extract(r.extractor, r.target))
                if r.options is None:
                    continue
                # the options in the drawn order, each of them in the prompt, and the right one is
                # the answer
                texts = list(map(str, item.values.get("options", spec.options)))
                assert r.options[r.answer_index] == r.target == r.references[0]
                if r.options[0] == "(A)":
                    right = item.values["answer"]
                    right = texts[right] if isinstance(right, int) else right
                    assert f"{r.target} {right}" in r.prompt and all(
                        f") {t}" in r.prompt for t in texts
                    )
                    written = ["(A)"]
                else:
                    assert sorted(r.options) == sorted(texts)
                    found = {
                        n: s(r.options)[0]
                        for n, s in templates.OPTION_STYLES.items()
                        if n in spec.option_styles
                    }
                    written = [n for n, text in found.items() if text in r.prompt]
                assert bool(written) == ("options" in templates.slots(template[0]))
                styles |= set(written)
        for metric in spec.metrics:  # an oracle scores 1
            assert metrics.METRICS[metric](gold, said) == {metric: 1.0}
    assert not listing or styles == set(spec.option_styles) and "(A)" in styles


def test_every_task_has_wordings_without_options(prepared):
    for name, spec in SPECS.items():
        variant = names.parse(f"{name}:noopt")
        assert resolve.supports(spec, variant) and resolve.supports(
            spec, names.parse(f"{name}:fs4:noopt")
        )
        r = render.render(spec, variant, items_of(spec)[0], 0, 0)
        assert not any(
            s(r.options)[0] in r.prompt for s in templates.OPTION_STYLES.values() if r.options
        )
        variant = names.parse(f"{name}:fs4:opt")
        if resolve.supports(spec, variant):
            r = render.render(spec, variant, items_of(spec)[0], 0, 0)
            # letters hide the texts of their options
            shown = [
                s(r.options)[0] for s in templates.OPTION_STYLES.values() if r.options[0] != "(A)"
            ]
            assert any(text in r.prompt for text in shown) if shown else "(A) " in r.prompt
    with pytest.raises(UserError, match="has no templates for 'only_options:noopt'"):
        only = registry.make_task("only_options", version=1, cluster="c", source=function(lambda *_: []), fields=dict, options=("a", "b"),
                                  templates=[("{x} {options}", "{answer}")])  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(registry.TASKS, "only_options", only)
            resolve.members(registry.MixtureSpec("m", ("only_options:noopt",)))


def test_options_are_the_builders_labels(prepared):
    seen = set()
    for name, spec in SPECS.items():
        classes = prepared[tfds_name(spec)[0]]["classes"]
        label = next(
            (classes[f] for f in ("label", "label-coarse", "answerKey") if f in classes), None
        )
        of_rows = {len(i.values["options"]) for i in items_of(spec) if "options" in i.values}
        if label and spec.options:
            assert [MEANS[n] for n in label] == list(spec.options), name
        elif label and "choices/label" in classes:  # ARC: three to five of the letters
            assert max(of_rows) == len(label) and min(of_rows) == 3, name
        elif label and of_rows:
            assert of_rows == {len(label)}, name
        elif name in UNNAMED:
            assert {UNNAMED[name]} == ({len(spec.options)} if spec.options else of_rows), name
            seen.add(name)
        else:
            assert not spec.options and not of_rows and "accuracy" not in spec.metrics, name
    assert seen == set(UNNAMED)


def test_held_out_wordings_are_new():
    for name, spec in SPECS.items():
        shared = runs(spec.templates) & runs(spec.heldout_templates)
        assert not shared and runs(spec.templates), (name, shared)


def first_renderings() -> dict[str, dict[str, str]]:
    out = {}
    for name, spec in SPECS.items():
        r = render.render(spec, names.parse(name), items_of(spec)[0], 0, 0)
        out[name] = {"template": r.template, "prompt": r.prompt, "target": r.target}
    return out


def table() -> str:
    """tasks/README.md: every set by cluster."""
    lines = [
        "# FLAN's clusters over TFDS", "",
        "Written by `uv run python -m tests.tasks.test_flan` from the registry. Every task here ran on synthetic rows in",
        "its builder's schema (tests/tasks/flan_probe.py): read, rendered in all wordings, scored. None of the published",
        "rows were read: `itx tasks check NAME --download` fetches a set into `$TFDS_DATA_DIR` and does that; story_cloze,",
        "xsum and samsum must be downloaded by hand before (TFDS says from where and to where).", "",
        f"{len(SPECS)} sets, {len(FLAN_CLUSTERS)} clusters.", "",
        "| cluster | task | TFDS set | made from | wordings | metrics |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for cluster in FLAN_CLUSTERS:
        for name, s in SPECS.items():
            if s.cluster == cluster:
                lines.append(f"| {cluster} | {name} | `{s.source.options['name']}` | {', '.join(s.origin)} | "
                             f"{len(s.templates)}+{len(s.heldout_templates)} | {', '.join(s.metrics)} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def test_first_renderings_are_the_golden_ones(prepared):
    now = first_renderings()
    assert now == json.loads(GOLDEN.read_text(encoding="utf-8")), (
        "write it anew: the command is at the top of this file"
    )


def test_the_table_is_the_registrys():
    assert TABLE.read_text(encoding="utf-8") == table(), (
        "write it anew: the command is at the top of this file"
    )


def test_marks_of_other_formats_are_taken_off():
    assert commonsense.unmarked("[header] How to swim [title] Find a pool. [step] Go in.") == (
        "How to swim. Find a pool. Go in."
    )
    assert commonsense.unmarked("A man [tall] sits.") == "A man [tall] sits."
    row = {"text": r"Bad.<br /><br />Very bad.\nAwful.", "label": 0}
    assert sentiment.review_fields(row) == {"text": "Bad.\nVery bad.\nAwful.", "answer": 0}


def test_labels_without_a_class():
    assert SPECS["stsb"].fields({"sentence1": "a", "sentence2": "b", "label": 2.5})["answer"] == 3
    assert SPECS["stsb"].fields({"sentence1": "a", "sentence2": "b", "label": -1.0}) == Skip(
        "no label"
    )
    assert SPECS["sentiment140"].fields({"text": "a", "polarity": 4})["answer"] == 2
    assert (
        SPECS["story_cloze"].fields({"context": "c", "endings": ["a", "b"], "label": 2})["answer"]
        == 1
    )
    assert SPECS["story_cloze"].fields(
        {"context": "c", "endings": ["a", "b"], "label": -1}
    ) == Skip("no label")
    assert SPECS["hellaswag"].fields({"context": "c", "endings": ["a", "a "], "label": 0}) == (
        Skip("two options are alike")
    )
    assert SPECS["rte"].fields({"sentence1": "a", "sentence2": " ", "label": 0}) == Skip(
        "empty hypothesis"
    )


# ---- mixtures
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", FLAN_CLUSTERS)
def test_a_held_out_cluster_takes_neighbours_and_kin(cluster):
    zs, fs = (registry.MIXTURES[f"flan_{kind}_no_{cluster}"] for kind in ("zs", "fs"))
    gone = dict(resolve.removed(zs))
    assert gone == dict(resolve.removed(fs))
    for name, spec in SPECS.items():
        kin = {
            n for n, s in SPECS.items() if s.cluster == cluster and set(s.origin) & set(spec.origin)
        }
        if spec.cluster == cluster:
            assert gone.pop(name) == f"cluster {cluster} is held out"
        elif spec.cluster in NEIGHBOURS.get(cluster, ()):
            assert gone.pop(name) == f"cluster {spec.cluster} is a neighbour of {cluster}"
        elif kin:
            assert re.fullmatch(r"made from (\w+), as is (\w+)", gone.pop(name))[2] in kin
    assert not gone
    left = set(SPECS) - set(dict(resolve.removed(zs)))
    assert resolve.members(zs) == dict.fromkeys(left, 1.0)
    assert resolve.members(fs) == dict.fromkeys([n + v for n in left for v in ("", ":fs4")], 0.5)


def test_kin_are_found_across_clusters_and_collections(shared):
    gone = dict(resolve.removed(registry.MIXTURES["flan_zs_no_nli"]))
    assert (
        gone["squad"] == "made from squad, as is qnli"
        and gone["wsc"] == "made from wsc, as is wnli"
    )
    gone = dict(resolve.removed(registry.MIXTURES["flan_zs_no_sentiment"]))
    assert gone["film_critics"] == "made from sst, as is sst2"
    gone = dict(resolve.removed(registry.MIXTURES["flan_zs_no_summarisation"]))
    assert gone["record"] == "made from cnn_dailymail, as is cnn_dailymail"
    # the same sets in P3 and Natural Instructions go by the same names
    pool = (*SPECS, "p3.*", "ni.*")
    every = registry.MixtureSpec(
        "x", holdout(clusters=["sentiment", "reading_commonsense"], among=pool)
    )
    gone = dict(resolve.removed(every, str(shared)))
    # P3 uses the names of clusters too
    assert gone["p3.rotten_tomatoes"] == "cluster sentiment is held out"
    assert gone["ni.subtask024_cosmosqa_answer_generation"].startswith("made from cosmosqa, as is ")
    only = registry.MixtureSpec("x", holdout(tasks=["sst2", "piqa", "gigaword"], among=pool))
    gone = dict(resolve.removed(only, str(shared)))
    assert gone["p3.rotten_tomatoes"] == gone["film_critics"] == "made from sst, as is sst2"
    assert gone["p3.gigaword"] == "made from gigaword, as is gigaword"
    assert sum(r == "made from piqa, as is piqa" for r in gone.values()) >= 1


def test_the_kinds_of_flan_mixtures():
    assert mixtures.FLAN == list(SPECS)
    members = {k: resolve.members(registry.MIXTURES[f"flan_{k}"]) for k in mixtures.KINDS}
    assert members["zs"] == dict.fromkeys(SPECS, 1.0)
    listing = [
        n for n, s in SPECS.items() if any("options" in templates.slots(t[0]) for t in s.templates)
    ]
    assert 30 < len(listing) < len(SPECS)
    assert members["zsopt"] == {f"{n}:opt": 1.0 for n in listing}
    assert members["zsnoopt"] == {f"{n}:noopt": 1.0 for n in SPECS}
    assert members["fsopt"] == {f"{n}:fs4:opt": 1.0 for n in listing}
    assert members["fsnoopt"] == {f"{n}:fs4:noopt": 1.0 for n in SPECS}
    left = {k: resolve.left_out(registry.MIXTURES[f"flan_{k}"]) for k in mixtures.KINDS}
    assert left["fsopt"] == [
        (n, "it has no wording for :fs4:opt") for n in SPECS if n not in listing
    ]
    assert len(left.pop("zsopt")) == len(left.pop("fsopt")) and not any(left.values())
    mini = registry.MIXTURES["flan_mini"]
    assert mini.maximum == 3000 and len({SPECS[n].cluster for n in resolve.members(mini)}) == 6


def test_flan2022s_shares(shared):
    def shares(name: str) -> dict[str, float]:
        """Of the tasks or mixtures that stand in a mixture."""
        found = resolve.members(registry.MIXTURES[name], str(shared))
        return {m: w / sum(found.values()) for m, w in found.items()}

    assert shares("flan2022") == pytest.approx(
        {
            "flan2022_flan": 0.40,
            "flan2022_p3": 0.32,
            "flan2022_ni": 0.20,
            "flan2022_cot": 0.05,
            "flan2022_dialog": 0.03,
        }
    )
    assert set(shares("flan2022_flan").values()) == {0.25}
    assert len(shares("flan2022_p3")) == 30 and len(shares("flan2022_ni")) == 123
    assert (
        all(m.endswith(":cot") for m in shares("flan2022_cot")) and len(shares("flan2022_cot")) == 8
    )
    assert set(shares("flan2022_dialog")) == set(dialog.FILES)


def test_conversations_are_read_whole(shared):
    for name, rows in (("sharegpt", 498), ("glaive_toolcall", 300)):
        spec = registry.task(name)
        assert spec.chat and check.check(spec, str(shared)) == []
        kept, alike = 0, Counter()
        for split in ("train", "validation", "test"):
            counts: Counter = Counter()
            found = list(examples.items(spec, split, str(shared), 0, counts))
            assert (
                counts["read"]
                == rows
                == len(found) + sum(n for r, n in counts.items() if r != "read")
            )
            kept += len(found)
            alike += counts - Counter({"read": rows, "another split": rows})
        assert kept + sum(alike.values()) == rows and set(alike) <= {cache.REPEATED, cache.CONFLICT}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TFDS_DATA_DIR"] = folder
        probe(Path(folder))
        GOLDEN.parent.mkdir(exist_ok=True)
        text = json.dumps(first_renderings(), ensure_ascii=False, indent=1)
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    TABLE.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
