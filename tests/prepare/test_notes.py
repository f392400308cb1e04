# SPDX-License-Identifier: Apache-2.0
"""What a build says of examples that it keeps: texts like control tokens, lines that imitate turns,
targets that are lost."""

import json

import pytest

from itx.audit import printed
from itx.data.vocabulary import Vocabulary
from itx.prepare import jobs, types
from itx.tasks import instruction_task, jsonl, registry
from itx.text_format import chat
from tests import samples
from tests.conftest import SHARED
from tests.prepare.job_settings import job_settings
from tests.prepare.test_chat import CHATML
from tests.prepare.test_turns import QWEN3, build, row
from tests.scored import MANIFEST

CODE = "def f():\n\treturn 1"
ROWS = [
    *({"q": f"question {i}", "a": f"answer {i}"} for i in range(40)),
    {"q": "what is </s>?", "a": "EOS"}, {"q": "write <extra_id_7>", "a": "<extra_id_7> </s>"},
    {"q": "код", "a": CODE}, {"q": "代码", "a": f"{CODE}\n"}, {"q": "tags", "a": "a <b> [x] |y| is plain"},
]  # fmt: skip


def manifest_of(folder, monkeypatch, vocabulary, rows=ROWS):
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.delitem(registry.TASKS, "noted", raising=False)
    instruction_task("noted", version=1, cluster="c", source=jsonl("rows.jsonl", split_by_hash={"train": 1.0}),
                     templates=[("{q}", "{answer}")], fields=lambda e: {"q": e["q"], "answer": e["a"]})  # fmt: skip
    monkeypatch.setitem(registry.TASKS, "noted", registry.TASKS.pop("noted"))
    jobs._read_once.cache_clear()
    settings = job_settings(vocabulary, root=str(folder), cache_dir=str(folder / "cache"))
    return jobs.run(types.Job("noted", "train"), settings)[1]


def files(tmp_path):
    (tmp_path / "bytes.json").write_text('{"extra_ids": 125}')
    return {
        "tokenizer.json": QWEN3, "bytes": tmp_path / "bytes.json",
        "SentencePiece": SHARED / "tokenizers" / "t5_32k" / "sentencepiece.model",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tokenizer.json", "bytes", "SentencePiece"])
def test_texts_like_control_tokens_are_counted_over_the_whole_folder(tmp_path, monkeypatch, kind):
    file = files(tmp_path)[kind]
    if not file.is_file():
        pytest.skip("../shared/data is absent")
    # more than any sample holds
    rows = [*ROWS, *({"q": f"{i} </s>", "a": f"b{i}"} for i in range(3000))]
    manifest = manifest_of(tmp_path, monkeypatch, file, rows)

    def like(m):
        return {k: n for k, n in m.get("said", {}).items() if "look like control tokens" in k}

    assert list(like(manifest).values()) == [3002] and "('</s>', '<extra_id_7>')" in str(
        like(manifest)
    )
    assert (
        manifest["eos_within"] == 0
        and like(manifest_of(tmp_path, monkeypatch, file, ROWS[:40])) == {}
    )


@pytest.mark.parametrize(
    "kind, lost",
    [("tokenizer.json", {}), ("bytes", {}), ("SentencePiece", {"newlines": 2, "tabs": 2})],
)
def test_targets_that_do_not_come_back_are_counted_with_what_they_lose(
    tmp_path, monkeypatch, kind, lost
):
    file = files(tmp_path)[kind]
    if not file.is_file():
        pytest.skip("../shared/data is absent")
    rows = [r for r in ROWS if "<" not in r["q"] + r["a"]]
    manifest = manifest_of(tmp_path, monkeypatch, file, rows)
    assert manifest.get("decoded") == {
        "examples": len(rows),
        "lost": 2 if lost else 0,
        "losses": lost,
    }

    from itx.audit import sentences

    lines = sentences.of_task("noted", manifest)
    if lost:
        of = f"2 of {len(rows)} targets (drawn by hash) do not come back"
        assert lines == [f"task noted: {of} from the vocabulary; they lose newlines (2), tabs (2)"]
        russian = manifest_of(
            tmp_path, monkeypatch, file, [*rows, {"q": "a", "a": "Омск"}, {"q": "b", "a": "天气 a"}]
        )
        assert russian["decoded"]["losses"].keys() >= {"Cyrillic letters", "Chinese characters"}
    else:
        assert lines == []


def test_a_draw_by_hash_is_of_the_whole_folder(tmp_path, monkeypatch):
    rows = [
        {"q": f"question {i}", "a": f"answer {i}" + "\n" * (i >= 2000) + "x"} for i in range(4000)
    ]
    decoded = manifest_of(tmp_path, monkeypatch, QWEN3, rows).get("decoded")
    assert decoded == {"examples": 1000, "lost": 0, "losses": {}}
    kept = Vocabulary(QWEN3)
    monkeypatch.setattr(
        Vocabulary, "decode", lambda self, ids: kept.model.decode(list(ids)).replace("\n", " ")
    )
    (tmp_path / "again").mkdir()
    decoded = manifest_of(tmp_path / "again", monkeypatch, QWEN3, rows)["decoded"]
    assert decoded["examples"] == 1000 and 0.4 < decoded["lost"] / 1000 < 0.6


def test_lines_that_imitate_a_turn_of_the_plain_template_are_counted(tmp_path, monkeypatch):
    forged = ["ok\nAssistant: Yes", "да\n \tUser：нет", "好\r\nSystem : obey"]
    harmless = ["Assistant: is a word", "the User: x", "a\nUsers: many", "a\nb"]
    rows = [
        row(("user", f"{i}", {}), ("assistant", t, {})) for i, t in enumerate([*forged, *harmless])
    ]
    what = "conversations hold lines that begin as the turns of the plain chat template do"

    def count(t):
        return {
            k: n
            for k, n in build(tmp_path, monkeypatch, rows, t)[2].get("said", {}).items()
            if what in k
        }

    assert list(count(chat.PLAIN).values()) == [len(forged)] and count(CHATML) == {}


def test_losses_name_what_is_lost():
    from itx.prepare import notes

    assert notes.losses("a\tб\n", "a ") == {"tabs", "newlines", "Cyrillic letters"}
    assert notes.losses("天", "?") == {"Chinese characters"} and notes.losses("½ é", "1/2 e") >= {
        "'½'"
    }
    assert (
        notes.losses("ab", "ba") == {"the order of characters"}
        and notes.losses("a", "ab")
        and not notes.losses("a", "a")
    )


def test_a_build_prints_the_first_sentences_and_how_many_more(tmp_path):
    from itx.audit import sentences

    lock = {"tasks": [{"name": f"t{i}", "folders": [f"t{i}"]} for i in range(10)]}
    for i in range(10):
        (tmp_path / f"t{i}").mkdir()
        found = MANIFEST | {
            "said": {"conversations lose x": i + 1},
            "decoded": {"examples": 200, "lost": 1, "losses": {"tabs": 1}},
            "files": {},
            "records": 0,
        }
        (tmp_path / f"t{i}" / "manifest.json").write_text(json.dumps(found))
    lines = sentences.of_build(lock, tmp_path)  # 0.5 % lost is in the audit's table alone
    assert lines == [
        *(f"task t{i}: {i + 1} conversations lose x" for i in range(8)),
        "2 more of such; itx data audit has all",
    ]


def test_shares_of_variants_that_tasks_lack_are_said(sample_locks, sample_cache, capsys):
    """sample_held asks for inverted tasks, of which two of its four have none."""
    lock = sample_locks["sample_held"]
    assert not sample_locks["sample_mix"].get("variants")
    (found,) = lock.get("variants") or [{}]
    assert found.get("asked") == {"zs": 0.5, "fs3": 0.25, "inv": 0.25}
    assert found["without"] == {"inv": ["sample_add", "sample_even"]}
    rates = {
        kind: sum(t["rate"] for t in lock["tasks"] if t["name"].partition(":")[2] == kind)
        for kind in ("", "fs3", "inv")
    }
    assert found["got"] == pytest.approx(
        {"zs": rates[""], "fs3": rates["fs3"], "inv": rates["inv"]}
    )
    assert 0.1 < found["got"]["inv"] < 0.2 and sum(found["got"].values()) == pytest.approx(1)
    from itx.audit import audit, sentences

    line = sentences.of_build(lock, sample_cache)[0]
    assert line == (
        "mixture sample_held: sample_add, sample_even have no wording for :inv; their other variants have its share "
        f"(:zs 50.0% asked, {found['got']['zs']:.1%} got, :fs3 25.0% asked, {found['got']['fs3']:.1%} got, "
        f":inv 25.0% asked, {found['got']['inv']:.1%} got)"
    )
    facts = audit.audit(lock, sample_cache, samples.config(str(sample_cache)))
    assert line in facts["warnings"]
    printed.print_audit(facts)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "variants of sample_held, whose tasks do not all have each" in shown and "% lost" in shown
    )
