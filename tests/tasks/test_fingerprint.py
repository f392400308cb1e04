# SPDX-License-Identifier: Apache-2.0
"""A task's part of a cache key changes with all that its functions use, and with nothing else."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from itx.errors import UserError
from itx.prepare import jobs, types
from itx.tasks import fingerprint
from itx.tasks.registry import make_task
from itx.tasks.spec import function
from tests.conftest import REPO
from tests.prepare.job_settings import job_settings

PACKAGE = {
    "own/__init__.py": "",
    "own/text.py": "from own import deep\nTABLE = {'a': 1}\n\ndef clean(t):\n    return deep.strip(t)\n",
    "own/deep.py": "from own.deeper import MARK\n\ndef strip(t):\n    return t.strip(MARK)\n",
    "own/deeper.py": "MARK = '.'\n",
    "own/bases.py": "class Base:\n    mark = '!'\n    def __call__(self, e):\n        return {'a': e['a'] + self.mark}\n",
    "own/lazy.py": "def late(t):\n    return t + '?'\n",
    "own/main.py": '''
import dataclasses
import functools
import random
from own import bases, text
from own.bases import Base
from own.text import TABLE

text.TABLE["b"] = 2


@dataclasses.dataclass
class Inner:
    mark: str = "-"
    words: list = dataclasses.field(default_factory=lambda: ["one", "two"])


@dataclasses.dataclass
class Outer:
    inner: Inner

    def fields(self, e):
        return {"a": e["a"] + self.inner.mark}


class Slots:
    __slots__ = ("mark", "__hidden")

    def __init__(self, mark):
        self.mark, self.__hidden = mark, mark

    def __call__(self, e):
        return {"a": e["a"] + self.mark}


class Derived(Base):
    words = frozenset({"red", "green", "blue", "white", "black"})


class Words(dict):
    def __call__(self, e):
        return {"a": self[e["a"]]}


def one_line(e):
    return {"a": text.clean(e["a"])}


def helped(e):
    return {"a": inner_helper(e["a"])}


def inner_helper(t):
    return innermost(t)


def innermost(t):
    return t + "*"


def imports_inside(e):
    from own.lazy import late

    return {"a": late(e["a"])}


def by_name(e):
    return {"a": globals()["inner" + "most"](e["a"])}


def with_table(e, *, table=TABLE):
    return {"a": table[e["a"]]}


def with_default(e, end=lambda t: t + ";"):
    return {"a": end(e["a"])}


def decorated(fn):
    mark = "#"

    @functools.wraps(fn)
    def inner(e):
        return {"a": fn(e)["a"] + mark}

    return inner


@decorated
def wrapped(e):
    return {"a": e["a"]}


def unrelated(e):
    return {"a": "another"}


outer, slots, derived, words = Outer(Inner()), Slots("/"), Derived(), Words(a="b")
FIELDS = {
    "bound": outer.fields, "module": one_line, "helpers": helped, "inside": imports_inside, "by_name": by_name,
    "table": with_table, "default": with_default, "wrapped": wrapped, "slots": slots, "derived": derived, "dict": words,
    "partial": functools.partial(with_table, table={"x": Inner()}), "random": functools.partial(Derived(), random.Random(1)),
}
''',
}  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes the package `own`, some of its text replaced, and gives the key of one of its
    functions."""
    monkeypatch.syspath_prepend(tmp_path)

    def key(
        which: str, file: str = "own/main.py", old: str = "", new: str = "", then=lambda main: None
    ) -> str:
        for name, text in PACKAGE.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            assert name != file or old in text
            (tmp_path / name).write_text(text.replace(old, new) if name == file and old else text)
        for name in [m for m in sys.modules if m.partition(".")[0] == "own"]:
            monkeypatch.delitem(sys.modules, name)
        for cached in (tmp_path / "own").glob("__pycache__/*"):
            cached.unlink()
        importlib.invalidate_caches()
        main = importlib.import_module("own.main")
        then(main)
        return key_of(main.FIELDS[which])

    return key


def key_of(fields) -> str:
    source = function(lambda split, root, seed: [], {"train": 1.0})
    return fingerprint.of_task(
        make_task(
            "t", version=1, cluster="c", source=source, fields=fields, templates=[("{a}", "{a}")]
        )
    )


def change(name: str, value):
    """What sets an attribute of the module `own.main` after it was imported."""

    def put(main):
        *path, last = name.split(".")
        found = main
        for part in path:
            found = getattr(found, part)
        if last.startswith("@"):
            found[last[1:]] = value
        else:
            setattr(found, last, value)

    return put


EDITS = {
    "an attribute of a bound method's object": ("bound", {"then": change("outer.inner.mark", "+")}),
    "a list deep in a dataclass": ("bound", {"then": lambda m: m.outer.inner.words.append("three")}),
    "a default factory": ("bound", {"old": '["one", "two"]', "new": '["one"]'}),
    "a bound method": ("bound", {"old": "self.inner.mark}", "new": "self.inner.mark * 2}"}),
    "a helper of a helper": ("helpers", {"old": 't + "*"', "new": 't + "**"'}),
    "a helper in another module": ("module", {"file": "own/text.py", "old": "deep.strip(t)", "new": "deep.strip(t) + '1'"}),
    "a helper of it in a third": ("module", {"file": "own/deep.py", "old": "t.strip(MARK)", "new": "t.strip()"}),
    "a constant in a fourth": ("module", {"file": "own/deeper.py", "old": "'.'", "new": "','"}),
    "a constant that is set from outside": ("module", {"then": lambda m: setattr(m.text, "clean", m.innermost)}),
    "an import inside a function": ("inside", {"file": "own/lazy.py", "old": "'?'", "new": "'??'"}),
    "a name made at run time": ("by_name", {"old": 't + "*"', "new": 't + "**"'}),
    "a dict that is filled at import": ("table", {"old": '["b"] = 2', "new": '["b"] = 3'}),
    "a dict that is filled later": ("table", {"then": lambda m: m.TABLE.update(c=3)}),
    "a lambda default": ("default", {"old": 't + ";"', "new": 't + ":"'}),
    "what a decorator adds": ("wrapped", {"old": 'mark = "#"', "new": 'mark = "##"'}),
    "the code of a decorator": ("wrapped", {"old": '["a"] + mark', "new": '["a"] + mark + mark'}),
    "a slot": ("slots", {"then": change("slots.mark", "|")}),
    "a private slot": ("slots", {"then": change("slots._Slots__hidden", "|")}),
    "a base class in another module": ("derived", {"file": "own/bases.py", "old": "'!'", "new": "'!!'"}),
    "a method of a base class": ("derived", {"file": "own/bases.py", "old": "e['a'] +", "new": "e['a'] + ' ' +"}),
    "a class attribute": ("derived", {"then": change("Derived.mark", "?")}),
    "a set in a class": ("derived", {"old": '"red", ', "new": ""}),
    "an attribute of an object that is called": ("derived", {"then": change("derived.mark", "?")}),
    "what a dict of its own class holds": ("dict", {"then": lambda m: m.words.update(b="c")}),
    "an object in a partial": ("partial", {"then": lambda m: setattr(m.FIELDS["partial"].keywords["table"]["x"], "mark", "+")}),
    "the state of random numbers": ("random", {"then": lambda m: m.FIELDS["random"].args[0].random()}),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_key_changes_with_what_a_function_uses(own, edit):
    which, changed = EDITS[edit]
    before = own(which)
    assert own(which) == before, "the same texts, imported again"
    assert own(which, **changed) != before


@pytest.mark.parametrize(
    "which", ["bound", "helpers", "inside", "table", "default", "slots", "derived", "partial"]
)
def test_a_key_stays_when_something_else_changes(own, which):
    before = own(which)
    assert own(which, old='"another"', new='"yet another"') == before
    assert (
        own(which, file="own/main.py", old="def unrelated", new="# a comment\n\n\ndef unrelated")
        == before
    )


PRINT_KEYS = """
import json, sys
from tests.tasks.test_fingerprint import key_of
from own.main import FIELDS
print(json.dumps({name: key_of(fields) for name, fields in FIELDS.items()}))
"""


def test_keys_are_the_same_in_every_process(own, tmp_path):
    here = {"slots": own("slots"), "derived": own("derived"), "bound": own("bound")}
    found = []
    for seed in ("1", "2"):
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(REPO)])
        done = subprocess.run([sys.executable, "-c", PRINT_KEYS], capture_output=True, text=True, cwd=REPO,
                              env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path})  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1] and {n: found[0][n] for n in here} == here
    assert len(set(found[0].values())) == len(found[0])


def test_what_has_no_state_is_refused_in_a_line(tmp_path):
    class Reads:
        def __init__(self):
            self.settings = {"file": open(__file__, "rb")}  # noqa: SIM115

        def __call__(self, e):
            return {"a": e["a"]}

    reads = Reads()
    try:
        with pytest.raises(UserError) as raised:
            key_of(reads)
    finally:
        reads.settings["file"].close()
    said = str(raised.value)
    assert (
        said.startswith("task 't': fields.settings['file'] is ")
        and "BufferedReader" in said
        and "\n" not in said
    )


def test_a_key_does_not_change_while_an_object_keeps_what_it_computed():
    import functools
    import threading

    class Keeps:
        def __init__(self):
            self.lock = threading.Lock()

        @functools.cached_property
        def words(self):
            return ["a", "b"]

        @functools.lru_cache  # noqa: B019
        def length(self, text):
            return len(text)

        def __call__(self, e):
            return {"a": e["a"] + str(self.words) + str(self.length(e["a"]))}

    keeps = Keeps()
    before = key_of(keeps)
    assert keeps({"a": "x"}) and "words" in vars(keeps)
    assert key_of(keeps) == before != key_of(keeps.__call__)


def test_a_cache_folder_is_named_by_it(own, monkeypatch):
    from itx.tasks import registry

    settings = job_settings(eval_examples=10)
    made = []
    for mark in ("!", "?"):
        own("derived", file="own/bases.py", old="'!'", new=f"'{mark}'")
        source = function(lambda split, root, seed: [], {"train": 1.0})
        fields = sys.modules["own.main"].FIELDS["derived"]
        spec = make_task(
            "t", version=1, cluster="c", source=source, fields=fields, templates=[("{a}", "{a}")]
        )
        monkeypatch.setitem(registry.TASKS, "t", spec)
        made += [jobs.folder(types.Job("t", "train"), settings, "hash") for _ in range(2)]
    assert made[0] == made[1] != made[2] == made[3]
    assert Path(made[0]).parent == Path(made[2]).parent
