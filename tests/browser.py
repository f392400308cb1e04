# SPDX-License-Identifier: Apache-2.0
"""A page in a real browser, with a script that types into it."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from itx.analysis import page


def driven(folder: Path, made: str, driver: str) -> dict:
    """What a driver's script found in a page: it puts JSON, in base64, into an element `result`. The
    profile stays in the folder, so that what a page keeps is there when it is opened again."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("Chromium is not installed: the page is not tried in a browser")
    # the policy names what may run: here the driver as well
    made = made.replace("script-src ", f"script-src {page.hash_of(driver)} ", 1)
    made = made.replace("</body>", f"<script>{driver}</script></body>")
    (folder / "page.html").write_text(made, encoding="utf-8")
    command = [
        *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"file://{folder / 'page.html'}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="result">([^<]+)</pre>', done.stdout)
    assert found, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(base64.b64decode(found[1]))
