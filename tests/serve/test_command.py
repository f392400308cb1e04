# SPDX-License-Identifier: Apache-2.0
"""`itx serve` as a command: its mistakes, its end."""

import json
import os
import signal
import subprocess
import sys

import openai
import pytest

from itx import cli
from itx.serve import serving
from tests.conftest import REPO, one_device


def test_the_command_serves_until_it_is_told(tmp_path):
    """A Hugging Face folder; the key from the environment; Ctrl-C ends it with 130."""
    folder = REPO / "tests" / "golden" / "hf" / "t5"
    command = [sys.executable, "-m", "itx.cli", "serve", str(folder), "--port", "0", "--rows", "4"]
    command += ["--key_variable", "MINE", "--json", str(tmp_path / "facts.json")]
    environment = one_device() | {"MINE": "secret"}
    with subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        try:
            told = child.stdout.readline().decode()
            assert "t5 answers at http://127.0.0.1:" in told, told
            address = told.split(" at ")[1].split(";")[0]
            with openai.OpenAI(base_url=address, api_key="secret", max_retries=0) as asked:
                found = asked.completions.create(prompt="a b", model="t5", max_tokens=3)
                assert found.usage.completion_tokens <= 3
            os.kill(child.pid, signal.SIGINT)
            rest = child.stdout.read().decode()
            assert child.wait(30) == 130 and "t5 answered 1 requests" in rest
            assert "secret" not in told + rest
        finally:
            child.kill()
    assert json.loads((tmp_path / "facts.json").read_text())["requests"] == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rows", "8,1"], "--rows 8,1: numbers of at least 1 that rise"),
        (["--port", "99999"], "--port 99999: a number from 0 to 65535"),
        (["--key_variable", "NOWHERE"], "$NOWHERE is not set"),
        (["--queue", "-1"], "--queue -1"),
        (["--cache_gib", "0"], "--cache_gib 0.0: must be above 0"),
        (["--port", "0"], "nowhere is not a run folder"),
    ],
)
def test_mistakes_on_the_command_line_are_named(capsys, words, why):
    assert cli.main(["serve", "nowhere", *words]) == 2
    assert why in capsys.readouterr().err


def test_a_taken_port_is_named(capsys):
    with serving.listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "nowhere", "--port", str(port)]) == 2
    assert f"--port {port}: Address already in use" in capsys.readouterr().err


def test_which_hosts_are_this_machine():
    assert all(map(serving.is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(serving.is_loopback, ("0.0.0.0", "::", "example.org", "")))
    assert serving.access("127.0.0.1", "", 1).hosts and not serving.access("0.0.0.0", "", 1).hosts
