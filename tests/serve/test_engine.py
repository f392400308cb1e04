# SPDX-License-Identifier: Apache-2.0
"""The server's engine: what it answers is what the engine of evaluation answers, whatever else is
asked."""

import dataclasses
import queue
import random

import pytest

from itx.data.vocabulary import Vocabulary
from itx.eval.sampling import Sampling
from itx.eval.texts import texts
from itx.serve import lanes
from itx.serve.asks import CUT, Ask, Delta, Ticket
from itx.serve.engine import Closed, Engine, Full
from itx.serve.lanes import Lane
from itx.serve.meters import Meters
from itx.serve.writer import Writer
from tests.conftest import REPO
from tests.serve.served import MODELS, SIZES, TEXTS, run

LIMITS = (40, 9, 33, 40, 1)  # most outgrow the first lane


def engine(name: str, sizes=SIZES, places: int = 64) -> Engine:
    asked = run(name)
    return Engine(asked.runner.loaded, asked.vocabulary, sizes, places, Meters())


def answers(engine: Engine, asks: list[Ask]) -> list[tuple[str, list[Delta]]]:
    """The whole text of each answer and its deltas; all are asked at once."""
    queues = [queue.SimpleQueue() for _ in asks]
    engine.submit([Ticket(a, q.put) for a, q in zip(asks, queues, strict=True)])
    out = []
    for q in queues:
        deltas = [q.get(timeout=60)]
        while deltas[-1].finish is None:
            deltas.append(q.get(timeout=60))
        assert not deltas[-1].failure
        out.append(("".join(d.text for d in deltas), deltas))
    return out


@pytest.fixture(scope="module")
def engines():
    """{model: a running engine}."""
    running = {name: engine(name) for name in MODELS}
    for one in running.values():
        one.start()
    yield running
    for one in running.values():
        one.close()
        one.thread.join(10)
        assert not one.thread.is_alive()


def asks_of(name: str, **how) -> list[Ask]:
    encode = run(name).vocabulary.encode
    pairs = zip(TEXTS, LIMITS, strict=True)
    return [Ask(encode(text), limit, **how) for text, limit in pairs]


def generated(name: str, asks: list[Ask]) -> list[dict]:
    """What `itx generate` answers to each, which is drawn as if it were the only prompt."""
    out: list[dict] = [{}] * len(asks)
    for how in {(a.temperature, a.top_p, a.seed, a.stop) for a in asks}:
        places = [i for i, a in enumerate(asks) if (a.temperature, a.top_p, a.seed, a.stop) == how]
        found = texts(
            run(name).runner,
            run(name).vocabulary,
            [asks[i].ids for i in places],
            [asks[i].max_tokens for i in places],
            Sampling(temperature=how[0], top_p=how[1], seed=how[2]),
            how[3],
            draws=[0] * len(places),
        )
        for i, answer in zip(places, found, strict=True):
            out[i] = answer
    return out


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_generate_whatever_else_is_asked(engines, name, monkeypatch):
    """Greedy, drawn and filtered rows in one batch, some of which move to a larger lane."""
    moved = []
    take = Lane.take
    monkeypatch.setattr(Lane, "take", lambda *args: (moved.append(args), take(*args)))
    plain = asks_of(name)
    drawn = asks_of(name, temperature=1.0, seed=3)[:3]
    few = asks_of(name, temperature=1.3, top_p=0.6, seed=2**32 - 1)[:2]
    if name == "prefix":  # how tokens are drawn has nothing to do with the model
        drawn, few = [], []
    mixed = [*plain, *drawn, *few]
    random.Random(0).shuffle(mixed)
    mixed = [dataclasses.replace(a, streamed=i % 2 == 0) for i, a in enumerate(mixed)]
    found = answers(engines[name], mixed)
    for ask, (text, deltas), want in zip(mixed, found, generated(name, mixed), strict=True):
        assert text == want["text"], ask
        assert deltas[-1].tokens == len(want["tokens"])
        assert deltas[-1].finish == ("stop" if want["finished"] else CUT)
    assert moved and len({text for text, _ in found}) >= len(mixed) // 2
    other_seed = [dataclasses.replace(a, seed=4) for a in drawn]
    again = [text for text, _ in answers(engines[name], [*drawn, *other_seed])]
    assert again[: len(drawn)] == [want["text"] for want in generated(name, drawn)]
    assert not drawn or again[: len(drawn)] != again[len(drawn) :]


@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_one_number_of_rows_gives_the_same_bits(name):
    """Log-probabilities of a request alone and beside others."""
    one = engine(name)
    assert SIZES.rungs == (4,)
    one.start()
    scored = asks_of(name, scored=True)
    together = [d[-1].scored for _, d in answers(one, [*scored, *scored[::-1]])]
    apart = [answers(one, [a])[0][1][-1].scored for a in scored]
    assert together[: len(scored)] == apart == together[len(scored) :][::-1]
    assert all(len(s.top) == 20 for scores in apart for s in scores)
    one.close()
    one.thread.join(10)


def test_a_lane_has_as_many_rows_as_it_needs(monkeypatch):
    """It grows with its requests and gives rows up when they have left; answers stay the same."""
    shapes, put = [], Lane.put
    monkeypatch.setattr(lanes, "PATIENCE", 2)

    def noted(lane, ticket):
        put(lane, ticket)
        shapes.append(len(lane.tickets))

    monkeypatch.setattr(Lane, "put", noted)
    one = engine("decoder", dataclasses.replace(SIZES, rungs=(1, 4), first=128))
    one.start()
    asks = [
        dataclasses.replace(a, max_tokens=m)
        for a, m in zip(asks_of("decoder"), (40, 6, 6, 6, 6), strict=True)
    ]
    found = [text for text, _ in answers(one, asks)]
    assert found == [want["text"] for want in generated("decoder", asks)]
    assert set(shapes) == {1, 4}
    one.close()
    one.thread.join(10)


@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_log_probabilities_are_those_of_ranking(engines, name):
    asks = asks_of(name, scored=True)
    found = [d[-1].scored for _, d in answers(engines[name], asks)]
    ids = [[s.id for s in scores] for scores in found]
    ranked = run(name).runner.rank([a.ids for a in asks], [[i] for i in ids], eos=False)
    for scores, (want,) in zip(found, ranked, strict=True):
        assert sum(s.logprob for s in scores) == pytest.approx(want["logprob"], abs=1e-3)
        assert want["greedy"] and all(s.top[0] == (s.id, s.logprob) for s in scores)
        offsets = [s.offset for s in scores]
        assert offsets == sorted(offsets) and offsets[0] == 0


def test_the_queue_is_bounded_and_takes_all_or_none(engines):
    small = engine("decoder", places=2)  # which is not started
    ask = asks_of("decoder")[0]
    small.submit([Ticket(ask, print) for _ in range(4 + 2)])
    with pytest.raises(Full) as full:
        small.submit([Ticket(ask, print)])
    assert 1 <= full.value.seconds <= 60 and len(small.waiting) == 6
    told = []
    small.waiting[0].tell = told.append
    assert small.close() == 6 and told[0].failure
    with pytest.raises(Closed):
        small.submit([Ticket(ask, print)])


def test_a_device_that_fails_is_told_and_the_next_request_does(monkeypatch, capsys):
    one = engine("decoder")
    one.start()
    step, fails = Lane.step, [True]

    def failing(lane):
        if fails.pop() if fails else False:
            raise RuntimeError("RESOURCE_EXHAUSTED: no memory")
        return step(lane)

    monkeypatch.setattr(Lane, "step", failing)
    told: queue.SimpleQueue = queue.SimpleQueue()
    ask = asks_of("decoder")[1]
    one.submit([Ticket(ask, told.put)])
    assert told.get(timeout=60).failure == "the engine failed"
    assert answers(one, [ask])[0][0] == generated("decoder", [ask])[0]["text"]
    assert not one.last_failed and "out of memory" in capsys.readouterr().err
    one.close()
    one.thread.join(10)


# ---- text

FALLBACK = REPO / "tests" / "golden" / "hf" / "t5" / "tokenizer.json"


def vocabularies(tmp_path) -> list[Vocabulary]:
    (tmp_path / "bytes.json").write_text('{"kind": "bytes", "extra_ids": 125}')
    return [run().vocabulary, Vocabulary(FALLBACK)]


@pytest.mark.parametrize("stop", [(), ("b c", "北京"), ("a",), ("ом",)])
def test_deltas_joined_are_the_whole_text(tmp_path, stop):
    """Of drawn ids, which hold parts of characters, and of texts in three scripts; a stop string's
    beginning is never told."""
    r = random.Random(5)
    for vocabulary in vocabularies(tmp_path):
        end = vocabulary.eos_id
        texts_ids = [vocabulary.encode(t) for t in ("a b cab", "дом, дома", "北京北北京 a b")]
        drawn = [[r.randrange(vocabulary.size) for _ in range(30)] for _ in range(20)]
        for ids in [*texts_ids, *drawn]:
            told = written(vocabulary, ids, end, stop, streamed=True)
            whole = written(vocabulary, ids, end, stop, streamed=False)
            assert len(whole) == 1 and "".join(d.text for d in told) == whole[0].text
            assert told[-1]._replace(text="") == whole[0]._replace(text="")
            assert not any(s in whole[0].text for s in stop)


def written(vocabulary, ids, end, stop, streamed) -> list[Delta]:
    """The deltas of an answer whose ids come one or a few at a time."""
    ticket = Ticket(Ask([1], 1000, stop=stop, streamed=streamed), print)
    writer, out, left = Writer(vocabulary, (end,), ticket), [], [*ids, end]
    while left and (not out or out[-1].finish is None):
        n = 1 + len(left) % 3
        ticket.ids += left[:n] if end not in left[:n] else left[: left.index(end) + 1]
        left = left[n:]
        if delta := writer.delta():
            out.append(delta)
    return out
