# SPDX-License-Identifier: Apache-2.0
"""Names of the Hugging Face hub: a commit is pinned, what may be read is fetched, and a path that
exists wins. `huggingface_hub` asks a hub on this machine."""

import concurrent.futures
import contextlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from itx import cli, hub, pretrained
from itx.config import DataConfig, EvalConfig, RunConfig, to_dict
from itx.errors import UserError
from itx.prepare import further, hub_tables, sources, workers
from itx.tasks.spec import hf_dataset
from tests.conftest import REPO
from tests.hub_server import serving

QWEN = REPO / "tests" / "golden" / "hf" / "qwen3"
RECIPE = """
from itx.config import DataConfig, RunConfig
def get_config(quick=False):
    return RunConfig(data=DataConfig(cache_dir={cache!r}))
"""


@pytest.fixture(scope="module")
def server():
    with serving() as (held, address):
        yield held, address


@pytest.fixture
def there(server, tmp_path, monkeypatch):
    """The hub, with a small Qwen that has code and a pickle beside it; a cache of its own."""
    held, address = server
    held.asked.clear()
    files = {p.name: p.read_bytes() for p in QWEN.iterdir()}
    files |= {"modeling_qwen.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04."}
    files |= {"consolidated.safetensors": b"the same again", "onnx/config.json": b"{}"}
    held.repos = {"models": {"Us/Qwen": files}, "datasets": {}}
    # what HF_ENDPOINT says, which is read when the library is imported
    monkeypatch.setattr(constants, "ENDPOINT", address)
    to = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", to)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (hub.PINS, hub.PINS_FILE):
        monkeypatch.setenv(name, "")  # and so it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return held


def forget(monkeypatch) -> None:
    """As a process that starts anew."""
    monkeypatch.delenv(hub.PINS, raising=False)


def test_a_model_comes_by_name_without_its_code(there):
    begin = pretrained.find("Us/Qwen")
    assert begin.folder.name == there.commit("models", "Us/Qwen") and begin.run is None
    assert {p.name for p in begin.folder.iterdir()} == {
        p.name for p in QWEN.iterdir() if p.suffix != ".npz"
    }
    assert not any(".py" in path or ".bin" in path for path in there.asked)
    # it is there: neither the hub nor its library is asked again, with the commit alone as well
    asked = len(there.asked)
    assert pretrained.find("Us/Qwen") == begin
    assert pretrained.find(f"Us/Qwen@{begin.folder.name}") == begin
    assert len(there.asked) == asked
    # a file that is lost is fetched again
    (begin.folder / "config.json").unlink()
    assert pretrained.find("Us/Qwen") == begin and (begin.folder / "config.json").is_file()


def test_a_commit_is_pinned_in_the_cache_and_in_the_run(there, tmp_path, monkeypatch):
    def load(cache: str) -> str:
        file = tmp_path / "recipe.py"
        file.write_text(RECIPE.format(cache=cache))
        forget(monkeypatch)
        config, origin = pretrained.load_recipe(str(file), ["--model.pretrained=Us/Qwen"])
        assert (
            config.model.embed_dim == json.loads((QWEN / "config.json").read_text())["hidden_size"]
        )
        assert Path(config.data.vocab).is_file() and origin["data.vocab"] != "default"
        return config.model.pretrained

    first = there.commit("models", "Us/Qwen")
    assert load("one") == f"Us/Qwen@{first}"
    assert json.loads(Path("one/hub.json").read_text())["models/Us/Qwen"] == first
    there.repos["models"]["Us/Qwen"]["README.md"] = b"newer"
    second = there.commit("models", "Us/Qwen")
    assert second != first
    assert load("one") == f"Us/Qwen@{first}"  # a second build
    assert load("two") == f"Us/Qwen@{second}"
    hub.use({"models/Us/Qwen": first})  # what a run's lock holds
    assert hub.pinned("Us/Qwen") == f"Us/Qwen@{first}"


def test_a_path_that_exists_wins(there):
    shutil.copytree(QWEN, "Us/Qwen")
    assert pretrained.find("Us/Qwen").folder == Path("Us/Qwen") and there.asked == []


def test_a_model_of_pickles_is_refused(there):
    there.repos["models"]["Us/Old"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}
    with pytest.raises(UserError, match=r"Us/Old@\w+ has no \*.safetensors; code and pickles"):
        pretrained.find("Us/Old")
    assert not any("resolve" in path for path in there.asked)


def test_without_a_network_or_the_extra_the_command_is_told(there, monkeypatch, capfd):
    line = "`hf download Us/Qwen --local-dir checkpoints/Qwen` gets it: then give checkpoints/Qwen"
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for words in (["generate", "Us/Qwen"], ["eval", "Us/Qwen", "--tasks", "x"]):
            assert cli.main(words) == 2
            told = capfd.readouterr().err
            assert line in told and "OfflineModeIsEnabled" in told and told.count("\n") == 1
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(UserError, match="the extra hf is not installed") as told:
            pretrained.find("Us/Qwen")
        assert line in str(told.value)
    with pytest.raises(UserError, match="Us/Qwne: no such path.*RepositoryNotFoundError"):
        pretrained.find("Us/Qwne")
    # what Hugging Face's own command had fetched serves without a network
    folder = snapshot_download("Us/Qwen")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pretrained.find("Us/Qwen").folder == Path(folder)
    assert "no answer of the hub; what is in" in capfd.readouterr().err


SUMS = {
    "README.md": b"",
    "sums.py": b"raise SystemExit",
    "main/train.jsonl": b'{"question": "1 plus 1?", "answer": "2"}\n{"question": "2 plus 1?", "answer": "3"}\n',
    "main/test.jsonl": b'{"question": "3 plus 1?", "answer": "4"}\n',
    "hard/train.jsonl": b'{"question": "9 plus 9?", "answer": "18"}\n',
}


def rows(source, split: str, root: str = "") -> list[tuple[str, dict]]:
    return list(sources.open_source(source, split, root, 0, Counter()))


def test_a_data_set_of_the_hub_is_a_source(there, monkeypatch):
    there.repos["datasets"]["them/sums"] = SUMS
    both = {"train": "them/sums", "test": "them/sums"}
    (row,) = rows(hf_dataset(both, subset="main"), "test")
    assert row == ("them/sums/main/test.jsonl:1", {"question": "3 plus 1?", "answer": "4"})
    assert not any("train.jsonl" in path or ".py" in path for path in there.asked)
    with pytest.raises(UserError, match="several subsets; name one: subset='hard'"):
        rows(hf_dataset("them/sums"), "train")
    with pytest.raises(UserError, match="no subset 'mian'; did you mean 'main'"):
        rows(hf_dataset("them/sums", subset="mian"), "train")

    # its commit is in the lock that a build writes
    @contextlib.contextmanager
    def threads(count):
        yield concurrent.futures.ThreadPoolExecutor(1)

    monkeypatch.setattr(workers, "pool", threads)
    forget(monkeypatch)
    data = DataConfig(modules=("tests.hub_tasks",), cache_dir="cache", vocab="bytes")
    request = {"config": to_dict(RunConfig(data=data, eval=EvalConfig())), "vocab": ""}
    request |= {
        "evaluation": [],
        "trained": [],
        "tasks": ["hub_sums"],
        "split": "test",
        "shots": [],
    }
    lock = further.make(request)["lock"]
    assert lock["hub"] == {"datasets/them/sums": there.commit("datasets", "them/sums")}
    assert json.loads(Path("cache/hub.json").read_text()).items() >= lock["hub"].items()


@pytest.mark.parametrize(
    ("files", "split", "chosen"),
    [
        (["data/train-00000-of-00001-a0.parquet", "README.md"], "train", [0]),
        (["alpaca.json", "dataset_infos.json"], "train", [0]),
        (["train.csv", "dev.csv", "train.parquet"], "train", [2]),
        (["a/validation.jsonl.gz", "a/test.jsonl.gz"], "validation", [0]),
        (["test/0.csv", "test/1.csv", "train/0.csv"], "test", [0, 1]),
        (["contest.csv", "latest.csv"], "train", [0, 1]),
    ],
)
def test_the_files_of_a_split(files, split, chosen):
    assert hub_tables.of_split("x/y", files, split) == [files[i] for i in chosen]


def test_a_data_set_of_code_is_refused():
    with pytest.raises(UserError, match="x/y holds no data file .* only y.py; code is never run"):
        hub_tables.of_split("x/y", ["y.py"], "train")
    with pytest.raises(UserError, match="no files of the split 'tset'"):
        hub_tables.of_split("x/y", ["train.csv", "test.csv"], "tset")
