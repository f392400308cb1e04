# SPDX-License-Identifier: Apache-2.0
"""TFDS sets that are not there yet: TFDS itself downloads and prepares one, in a process of its
own."""

import contextlib
import re
import shutil
import subprocess
import sys

from itx.errors import UserError
from itx.prepare import sources
from itx.tasks.spec import TaskSpec

_PREPARE = """
import sys, tensorflow_datasets as tfds
tfds.builder(sys.argv[1], data_dir=sys.argv[2]).download_and_prepare()
"""
# What urllib3 says at its first failure; it would try again for minutes
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Failed to resolve"
)
_UNFINISHED = "incomplete.*"  # TFDS's name of a folder while it is written


def missing(spec: TaskSpec) -> bool:
    """Whether a task reads a TFDS set that is not prepared."""
    if spec.source.kind != "tfds":
        return False
    with contextlib.suppress(UserError):
        sources.tfds_folder(spec.source.options["name"])
        return False
    return True


def prepare(name: str) -> None:
    """Download and prepare `glue/rte:2.0.0` under $TFDS_DATA_DIR; an error of one line where it
    cannot be."""
    top = sources.tfds_top()
    folder = top / name.partition(":")[0]
    before = set(folder.glob(_UNFINISHED))
    command = [sys.executable, "-c", _PREPARE, name, str(top)]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    said = ""
    with subprocess.Popen(command, **pipes) as process:
        for line in process.stderr:
            if _NO_NETWORK.search(line):
                process.kill()  # merely asked to end, it would first try all its times
                process.wait()
                for unfinished in set(folder.glob(_UNFINISHED)) - before:
                    shutil.rmtree(unfinished, ignore_errors=True)
                host = re.search(r"host='([^']+)'", line)
                why = f" ({host[1]} gives no answer)" if host else ""
                raise UserError(f"TFDS {name!r}: no network to download it{why}")
            said += line
    if process.returncode:
        # the last error of the traceback
        error = re.split(r"^(?=[\w.]+(?:Error|Exception)\b)", said, flags=re.MULTILINE)[-1]
        raise UserError(f"TFDS {name!r} could not be prepared: {' '.join(error.split())}")
