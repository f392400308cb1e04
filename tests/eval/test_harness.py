# SPDX-License-Identifier: Apache-2.0
"""A model of ours as a model of lm-evaluation-harness: by what full passes say, and by the
harness's own evaluator over tasks that stand here."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs

from itx import cli, pretrained, restore, storage
from itx.commands import harness as command
from itx.errors import UserError
from itx.eval import harness
from itx.eval.harness import HarnessModel
from itx.eval.runner import Runner
from itx.params import module_of
from tests.conftest import REPO

QWEN, T5 = (REPO / "tests" / "golden" / "hf" / name for name in ("qwen3", "t5"))
WIDTH = 64  # of a full pass
TEXTS = ("The cat is here.", "A dog reads", "Two and two", "What do birds eat in winter?")


@pytest.fixture(scope="module")
def loaded():
    begin = pretrained.untrained(str(QWEN))
    return restore.load_untrained(begin)


def model(loaded, max_length: int = 0, bos: int = -1) -> HarnessModel:
    runner, vocabulary, template = loaded
    runner = Runner(dataclasses.replace(runner.loaded, bos_id=bos))
    return HarnessModel(runner, vocabulary, template, max_length)


def asked(kind: str, *arguments: tuple) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=("mine", i, 1))
        for i, a in enumerate(arguments)
    ]


def likelihoods(made: HarnessModel, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    return made.loglikelihood(asked("loglikelihood", *pairs))


@partial(jax.jit, static_argnames="graphdef")
def passed(params: dict, batch: dict, *, graphdef) -> jax.Array:
    """log p of every token behind each decoder token, from one full pass."""
    logits = module_of(graphdef, params)(batch)
    return jax.nn.log_softmax(logits[0].astype("float32"))


def sides(**ids: list[int]) -> dict[str, np.ndarray]:
    """Inputs of one row, padded to WIDTH: one program for all of them."""
    batch = {}
    for side, tokens in ids.items():
        padded = np.zeros((3, 1, WIDTH), np.int32)
        padded[:, 0, : len(tokens)] = [tokens, np.ones(len(tokens)), range(len(tokens))]
        for key, values in zip(("input_tokens", "segment_ids", "positions"), padded, strict=True):
            batch[f"{side}_{key}"] = values
    return batch


def table(made: HarnessModel, ids: list[int], source: list[int] | None = None) -> np.ndarray:
    """log p of every token behind each of the ids, of an encoder-decoder behind a source."""
    of = made.runner.loaded
    batch = sides(decoder=ids, **({} if source is None else {"encoder": source}))
    return np.asarray(passed(of.params, batch, graphdef=of.graphdef))[: len(ids)]


def behind(made: HarnessModel, context: list[int], ids: list[int]) -> tuple[float, bool]:
    """(log p of ids behind a context, whether each is the likeliest)."""
    rows = table(made, [*context, *ids])[len(context) - 1 : -1]
    return float(rows[range(len(ids)), ids].sum()), bool((rows.argmax(-1) == ids).all())


def close(got: tuple[float, bool], want: tuple[float, bool]) -> bool:
    return got[1] == want[1] and abs(got[0] - want[0]) < 1e-4 * max(1, abs(want[0]))


@pytest.mark.parametrize("bos", [-1, 0])
def test_a_likelihood_is_that_of_a_full_pass(loaded, bos):
    made = model(loaded, bos=bos)
    encode, head = made.vocabulary.encode, [] if bos < 0 else [bos]
    pairs = [(c, o) for c in TEXTS for o in (" yes", " no way", ".")]
    for (context, option), got in zip(pairs, likelihoods(made, *pairs), strict=True):
        whole, first = encode(context + option), encode(context)
        # what joins the two texts into one token would be no such pair
        assert whole[: len(first)] == first
        assert close(got, behind(made, [*head, *first], whole[len(first) :])), (context, option)
    assert not made.counts


def test_a_space_at_the_end_of_a_context_is_the_continuations(loaded):
    made = model(loaded)
    moved, plain, apart = likelihoods(made, ("A dog ", "reads"), ("A dog", " reads"), ("A dog", "reads"))  # fmt: skip
    assert close(moved, plain) and not close(moved, apart)


def test_greedy_text_is_told(loaded):
    made = model(loaded)
    for text in TEXTS:
        ids = made.vocabulary.encode(text)
        written = [int(table(made, ids)[-1].argmax())]
        written.append(int(table(made, [*ids, *written])[-1].argmax()))
        other = [written[0], (written[1] + 1) % made.vocabulary.size]
        requests = [(("", ""), ids, option) for option in (written, written[:1], other)]
        told = made._loglikelihood_tokens(requests)
        assert [greedy for _, greedy in told] == [True, True, False]


def test_without_a_context_a_text_stands_behind_bos_or_else_eos(loaded):
    for bos, prefix in ((-1, loaded[1].eos_id), (0, 0)):
        made = model(loaded, bos=bos)
        ids = made.vocabulary.encode(" yes")
        for got in likelihoods(made, ("", " yes"), (" ", "yes")):
            assert close(got, behind(made, [prefix], ids))


def test_a_long_context_loses_its_first_tokens_and_is_counted(loaded):
    ids, option = loaded[1].encode(TEXTS[0]), loaded[1].encode(" no way")
    fits = len(ids) + len(option) - 1  # nobody reads the last token
    for room, cuts in ((fits, 0), (fits - 1, 1), (len(option) + 1, 1)):
        made = model(loaded, max_length=room)
        (got,) = likelihoods(made, (TEXTS[0], " no way"))
        kept = ids[-(room + 1 - len(option)) :]
        assert close(got, behind(made, kept, option))
        assert made.counts[harness.CUT_CONTEXTS] == cuts
    with pytest.raises(UserError, match=f"' no way' has {len(option)} tokens; the model takes 2"):
        likelihoods(model(loaded, max_length=2), (TEXTS[0], " no way"))


def test_an_empty_continuation_is_refused(loaded):
    made = model(loaded)
    with pytest.raises(UserError, match="harness task mine, document 1: an empty continuation"):
        likelihoods(made, ("a", " b"), ("a", ""))
    with pytest.raises(UserError, match="the continuation 'x' has no token of its own"):
        made._loglikelihood_tokens([(("a", "x"), [5], [])])


def test_a_text_is_read_in_windows_each_token_once(loaded):
    made = model(loaded, max_length=4)
    text = TEXTS[3]
    ids, prefix = made.vocabulary.encode(text), made.prefix_token_id
    assert len(ids) > 9
    want = behind(made, [prefix], ids[:4])[0]
    for begin in range(4, len(ids), 4):
        # the last window has as much context as there is room for
        end = min(begin + 4, len(ids))
        context = ids[max(0, end - 5) : begin]
        want += behind(made, context, ids[begin:end])[0]
    short = model(loaded)
    got = made.loglikelihood_rolling(asked("loglikelihood_rolling", (text,), ("",)))
    np.testing.assert_allclose(got, [want, 0.0], rtol=1e-5)
    whole = short.loglikelihood_rolling(asked("loglikelihood_rolling", (text,)))
    np.testing.assert_allclose(whole, [behind(short, [prefix], ids)[0]], rtol=1e-5)


def test_only_what_fits_shares_a_context():
    contexts = [(1,), (1,), (2, 3), (1,), (1,)]
    assert harness.shared(contexts, [200, 56, 9, 1, 300]) == [[0, 1], [2], [3], [4]]
    long = tuple(range(1000))
    assert harness.shared([long] * 3, [600, 400, 1]) == [[0, 1], [2]]
    assert harness.shared([], []) == []


# ---- generation


def answers(made: HarnessModel, *arguments: tuple[str, dict]) -> list[str]:
    return made.generate_until(asked("generate_until", *arguments))


def greedy(made: HarnessModel, ids: list[int], n: int) -> list[int]:
    out: list[int] = []
    while len(out) < n:
        token = int(table(made, [*ids, *out])[-1].argmax())
        if token in made.runner.loaded.ends:
            break
        out.append(token)
    return out


def test_answers_are_greedy_and_end_before_a_stop_string(loaded):
    made = model(loaded)
    whole = [made.vocabulary.decode(greedy(made, made.tok_encode(t), 12)) for t in TEXTS]
    assert answers(made, *((t, {"max_gen_toks": 12}) for t in TEXTS)) == whole
    stop = whole[0][3:5]
    stopped = answers(made, *((t, {"max_new_tokens": 12, "until": stop}) for t in TEXTS))
    assert stopped == [text.split(stop)[0] for text in whole] != whole
    lone = answers(made, (TEXTS[1], {"max_gen_toks": 3, "until": ["never", stop]}))
    assert lone == [made.vocabulary.decode(greedy(made, made.tok_encode(TEXTS[1]), 3))]


def test_a_long_prompt_leaves_room_for_its_answer(loaded):
    made = model(loaded, max_length=10)
    ids = made.vocabulary.encode(TEXTS[3])
    assert answers(made, (TEXTS[3], {"max_gen_toks": 4})) == [
        made.vocabulary.decode(greedy(made, ids[-6:], 4))
    ]
    assert made.counts == {harness.CUT_CONTEXTS: 1}
    with pytest.raises(UserError, match="document 0: 10 new tokens leave no room for a context"):
        answers(made, (TEXTS[3], {"max_gen_toks": 10}))


def test_repeated_draws_differ_and_greedy_ones_do_not(loaded):
    made = model(loaded)
    drawn = answers(made, *[(TEXTS[0], {"max_gen_toks": 8, "temperature": 5.0})] * 4)
    assert len(set(drawn)) > 1
    assert drawn == answers(made, *[(TEXTS[0], {"max_gen_toks": 8, "temperature": 5.0})] * 4)
    still = answers(made, *[(TEXTS[0], {"max_gen_toks": 8, "temperature": 5.0, "do_sample": False})] * 2)  # fmt: skip
    assert still[0] == still[1] not in drawn


@pytest.mark.parametrize(
    "given",
    [
        {}, {"until": "x", "max_gen_toks": 7}, {"until": ["a", "b"], "do_sample": False},
        {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "do_sample": False},
        {"max_tokens": 3, "max_new_tokens": 5}, {"max_completion_tokens": "9"}, {"until": None},
    ],
)  # fmt: skip
def test_generation_settings_are_the_harness_own(given):
    ours = harness.generation(given, "here")
    theirs = normalize_gen_kwargs(given, harness.MAX_NEW_TOKENS)
    assert ours.limit == theirs["max_gen_toks"] and ours.how.temperature == theirs.get(
        "temperature", 0
    )
    assert list(ours.until) == [s for s in theirs["until"] if s]
    assert bool(ours.how.temperature) == theirs["do_sample"]


def test_settings_that_would_change_answers_are_refused():
    with pytest.raises(UserError, match="task x: generation_kwargs: 'topp' is unknown.*'top_p'"):
        harness.generation({"topp": 0.9}, "task x")
    with pytest.raises(UserError, match="do_sample needs a temperature above 0"):
        harness.generation({"do_sample": True}, "task x")
    with pytest.raises(UserError, match="0 new tokens; at least 1"):
        harness.generation({"max_gen_toks": 0}, "task x")


# ---- control tokens and chat


def test_control_tokens_text_is_text_and_is_counted(loaded):
    made = model(loaded)
    (end,) = made.vocabulary.model.encode_template("<|im_end|>")
    plain = made.tok_encode("say <|im_end|> now")
    assert end not in plain and made.vocabulary.decode(plain) == "say <|im_end|> now"
    likelihoods(made, ("say <|im_end|>", " now"), ("say", " it"), ("say", " <|im_end|>"))
    assert made.counts == {harness.CONTROL_TEXTS: 2}


def test_a_chat_template_writes_the_context(loaded):
    made = model(loaded)
    said = [{"role": "user", "content": "Is it <|im_end|>?"}]
    text = made.apply_chat_template(said)
    assert text.startswith("<|im_start|>user\n") and text.endswith("<|im_start|>assistant\n")
    ids = made.tok_encode(text)
    (end,) = made.vocabulary.model.encode_template("<|im_end|>")
    assert ids.count(end) == 1 and made.counts == {harness.CONTROL_TEXTS: 1}
    # a continuation is content, too
    (got,) = likelihoods(made, (text + "so", "<|im_end|>"))
    so, ending = map(made.vocabulary.encode, ("so", "<|im_end|>"))
    assert close(got, behind(made, [*ids, *so], ending)) and end not in ending
    begun = [*said, {"role": "assistant", "content": "It is "}]
    begun = made.apply_chat_template(begun, add_generation_prompt=False)
    assert begun == text + "It is "


def test_a_system_message_that_the_template_refuses_is_left_out(loaded):
    runner, vocabulary, _ = loaded
    strict = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    made = HarnessModel(runner, vocabulary, strict)
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert made.apply_chat_template(said) == "user: Hi\n"
    assert made.counts == {harness.REFUSED_SYSTEMS: 1}
    with pytest.raises(UserError, match="no chat template"):
        HarnessModel(runner, vocabulary).apply_chat_template(said)
    silent = HarnessModel(runner, vocabulary, "{{ 'nothing' }}")
    with pytest.raises(UserError, match="the chat template does not write 'Hi'"):
        silent.apply_chat_template(said[1:], add_generation_prompt=False)


# ---- an encoder-decoder


def test_an_encoder_decoder_ranks_and_generates():
    runner, vocabulary, template = restore.load_untrained(pretrained.untrained(str(T5)))
    made = HarnessModel(runner, vocabulary, template)
    context, option = TEXTS[0], " no way"
    source, target = [*vocabulary.encode(context), vocabulary.eos_id], vocabulary.encode(option)
    start = runner.loaded.bos_id

    rows = table(made, [start, *target], source)[:-1]
    want = float(rows[range(len(target)), target].sum())
    got = likelihoods(made, (context, option), (context, " yes"))
    assert close(got[0], (want, bool((rows.argmax(-1) == target).all())))
    written: list[int] = []
    while len(written) < 5:
        token = int(table(made, [start, *written], source)[-1].argmax())
        if token in runner.loaded.ends:
            break
        written.append(token)
    assert answers(made, (context, {"max_gen_toks": 5})) == [vocabulary.decode(written)]
    # a context that is cut keeps the encoder's EOS
    cut = HarnessModel(runner, vocabulary, template, max_length=len(source) - 2)
    assert likelihoods(cut, (context, option)) != got[:1]
    source = source[2:]
    rows = table(made, [start, *target], source)[:-1]
    want = float(rows[range(len(target)), target].sum())
    assert abs(likelihoods(cut, (context, option))[0][0] - want) < 1e-3
    assert cut.counts == {harness.CUT_CONTEXTS: 2}
    with pytest.raises(UserError, match="tasks of perplexity are for decoders"):
        made.loglikelihood_rolling(asked("loglikelihood_rolling", ("a",)))


# ---- the harness's own evaluator, by the command

DOCS = [
    {"q": "The cat is", "right": 0, "word": "here"},
    {"q": "A dog", "right": 1, "word": "reads"},
    {"q": "Two and", "right": 1, "word": "two"},
]
CHOICES = [" here", " reads a lot"]
TASKS = {
    "pick": {
        "output_type": "multiple_choice", "doc_to_text": "{{q}}", "target_delimiter": "",
        "doc_to_choice": CHOICES, "doc_to_target": "right", "metric_list": [{"metric": "acc"}],
    },
    "write": {
        "output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{word}}",
        "generation_kwargs": {"max_gen_toks": 6, "until": ["\n"]}, "fewshot_split": "test",
        "metric_list": [{"metric": "exact_match"}],
    },
    "lost": {
        "output_type": "generate_until", "doc_to_text": "{{nothing.of_it}}", "doc_to_target": "x",
        "metric_list": [{"metric": "exact_match"}],
    },
    "late": {
        "output_type": "multiple_choice", "doc_to_text": "{{q}}", "description": "{{nothing.of_it}}",
        "doc_to_choice": CHOICES, "doc_to_target": "right", "metric_list": [{"metric": "acc"}],
    },
}  # fmt: skip


@pytest.fixture
def desk(tmp_path, monkeypatch, capfd):
    """`itx eval` of the small model in a folder with tasks of the harness."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    Path("docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCS))
    Path("tasks").mkdir()
    for name, task in TASKS.items():
        of = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "docs.jsonl"}}}
        text = yaml.safe_dump({"task": name, "test_split": "test", "metadata": {"version": 3}, **of, **task})  # fmt: skip
        Path("tasks", f"{name}.yaml").write_text(text)

    def ask(*words: str, code: int = 0) -> dict | str:
        given = ["eval", str(QWEN), "--json", "facts.json", *words]
        assert cli.main(given) == code
        said = capfd.readouterr()
        return said.err if code else {"out": said.out, **storage.read_json("facts.json")}

    return ask


def test_the_harness_asks_a_model_of_ours(desk, loaded):
    mine = ("--include_path", "tasks", "--out", "scores")
    facts = desk("--harness", "pick,write", *mine)
    made = model(loaded)
    right = []
    for doc in DOCS:
        told = likelihoods(made, *((doc["q"], c) for c in CHOICES))
        right.append(int(np.argmax([x for x, _ in told])) == doc["right"])
    (score,) = facts["tasks"]["pick"]["scores"]
    assert score["value"] == np.mean(right) and score["metric"] == "acc"
    np.testing.assert_allclose(score["stderr"], np.std(right, ddof=1) / np.sqrt(3))
    entry = facts["tasks"]["pick"]
    assert (entry["version"], entry["shots"], entry["examples"], entry["of"]) == (3, 0, 3, 3)
    assert entry["prompt_format"] == "plain" and "asked in plain text" in facts["out"]
    lines = [json.loads(x) for x in Path("scores/samples/write.jsonl").read_text().splitlines()]
    wrote = answers(made, *((d["q"], TASKS["write"]["generation_kwargs"]) for d in DOCS))
    assert [x["resps"] for x in lines] == [[[text]] for text in wrote]
    # another call adds, and says how the task was asked
    more = desk("--harness", "wri*", *mine, "--shots", "1", "--max_examples", "2", "--prompt_format", "chat")  # fmt: skip
    assert list(more["tasks"]) == ["write:fs1:chat"]
    assert more["tasks"]["write:fs1:chat"]["examples"] == 2
    held = storage.read_object("scores/harness.json", "tasks")
    assert held["tasks"].keys() == {"pick", "write", "write:fs1:chat"}
    lines = Path("scores/samples/write_fs1_chat.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["arguments"][0][0].count("<|im_start|>") == 4
    # one folder is one model's
    storage.write_json("scores/harness.json", {**held, "fingerprint": "another"})
    before = Path("scores/harness.json").read_bytes()
    told = desk("--harness", "pick", *mine, code=2)
    assert "scores holds scores of another model" in told and "give another --out" in told
    assert Path("scores/harness.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--include_path", "task"], "--include_path task: no such folder; did you mean 'tasks'?"),
        (["--harness", "lost"], "--harness lost: UndefinedError: 'nothing' is undefined"),
        (["--harness", "late"], "--harness late: its first example fails: UndefinedError"),
        (["--tasks", "bbh.*"], "--tasks is of tasks of ours; --harness takes --shots"),
        (["--shots", "0,5"], "--shots 0,5: with --harness one number of exemplars"),
        (["--harness", "pick,"], "--harness 'pick,': a task without a name"),
        (["--max_examples", "-1"], "--max_examples -1: 0 (all) or above"),
        (["--system", "Be kind."], "--system: with --harness it needs --prompt_format=chat"),
        (["--step", "3"], "holds one model, and no steps"),
        (["--out", "tasks"], "--out: tasks is there and is no folder of harness scores"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(desk, words, told):
    given = ["--harness", "pick", "--include_path", "tasks"]
    before = sorted(Path(".").rglob("*.json"))
    assert told in desk(*given, *words, code=2)
    assert sorted(Path(".").rglob("*.json")) == before and not Path("runs").exists()


def test_an_unknown_task_is_named_with_the_nearest(desk, monkeypatch):
    # the harness's own tasks take long to index: a folder stands for them
    real = command.importlib.util.find_spec
    from itx.eval import harness_tasks

    Path("package").mkdir()
    own = {"task": "hellaswag", "dataset_path": "json", "output_type": "multiple_choice"}
    Path("package/hellaswag.yaml").write_text(yaml.safe_dump(own))
    index = harness_tasks.TaskManager

    def of_package(include_path=None, include_defaults=True):
        paths = [p for p in ("package" if include_defaults else None, include_path) if p]
        return index(include_path=paths, include_defaults=False)

    monkeypatch.setattr(harness_tasks, "TaskManager", of_package)
    told = desk("--harness", "helaswag", code=2)
    assert "no task, group or tag of that name; did you mean 'hellaswag'?" in told
    Path("tasks/broken.yaml").write_text("task: [broken")
    told = desk("--harness", "broken", "--include_path", "tasks", code=2)
    assert "tasks/broken.yaml cannot be read: " in told
    monkeypatch.setattr(
        command.importlib.util, "find_spec", lambda n: None if n == "lm_eval" else real(n)
    )
    assert "`uv sync --extra lm-eval`" in desk("--harness", "pick", code=2)
    assert "give --harness TASKS" in desk("--include_path", "tasks", "--tasks", "x", code=2)
