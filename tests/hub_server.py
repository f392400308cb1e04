# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face hub on this machine, as far as `huggingface_hub` asks it: repositories with one
commit at a time, in memory."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

PATHS = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/?]+?)"
    r"(?:/(?P<what>revision|tree)/(?P<at>[^/?]+))?(?:\?.*)?"
)
FILES = re.compile(
    r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<at>[^/]+)/(?P<file>[^?]+)"
)


class Hub:
    """`repos[kind][name]` is {file: content}; `asked` holds each path that was asked for."""

    def __init__(self):
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {"models": {}, "datasets": {}}
        self.asked: list[str] = []

    def commit(self, kind: str, name: str) -> str:
        held = self.repos[kind][name]
        return hashlib.sha1(repr(sorted(held.items())).encode()).hexdigest()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if found := PATHS.fullmatch(path):
            kind, name = found["kind"], found["name"]
            if name not in self.repos[kind]:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            held, sha = self.repos[kind][name], self.commit(kind, name)
            if found["what"] == "tree":
                value = [
                    {"type": "file", "path": f, "size": len(data), "oid": "0" * 40}
                    for f, data in held.items()
                ]
            else:
                value = {"id": name, "sha": sha, "siblings": [{"rfilename": f} for f in held]}
                value |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
            return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
        found = FILES.fullmatch(path)
        kind = "datasets" if found and found["kind"] else "models"
        data = self.repos[kind].get(found["name"], {}).get(found["file"]) if found else None
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        etag = hashlib.sha1(data).hexdigest()
        commit = self.commit(kind, found["name"])
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, data


@contextlib.contextmanager
def serving() -> Iterator[tuple[Hub, str]]:
    """(the hub, its address)."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            code, headers, data = hub.answer(self.path)
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
