# SPDX-License-Identifier: Apache-2.0
"""Models and data sets of the Hugging Face hub by name: `owner/name`, or `owner/name@REVISION`.

    pin      a name becomes `owner/name@COMMIT` once: by what a run was begun with, by what the
             cache folder keeps in hub.json, else by what the hub says now
    folder   the files of that commit, in Hugging Face's own cache on this machine

Files that hold code, or pickles that can, are never fetched: of a model its safetensors, JSON,
templates and tokenizer, of a data set its tables. A path that exists is no name of the hub.
"""

import contextlib
import fnmatch
import glob
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from itx import storage
from itx.errors import OF_FOLDERS, UserError
from itx.text import say

# {key of a name: commit}, and the file that keeps such; worker processes and the build inherit them
PINS, PINS_FILE = "ITX_HUB_PINS", "ITX_HUB_PINS_FILE"
COMMIT = r"[0-9a-f]{40}"
NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@([\w.-]+))?", re.ASCII)
# What is fetched of a model, at its top level: not a second copy of the weights in another layout
OF_MODEL = (
    *("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"),
    *("README.md", "LICENSE*"),
)
NOT_OF_MODEL = ("consolidated*.safetensors",)
WEIGHTS = "*.safetensors"
TIMEOUT_SECONDS = 10.0

Choose = Callable[[list[str]], list[str]]  # of a repository's files those that are wanted


class Repo(NamedTuple):
    """A repository of the hub at a revision, "" for none."""

    kind: str  # model or dataset
    name: str
    revision: str = ""

    @property
    def key(self) -> str:
        """What a pin of it is kept under."""
        return f"{self.kind}s/{self}"

    @property
    def is_pinned(self) -> bool:
        return bool(re.fullmatch(COMMIT, self.revision))

    @property
    def remedy(self) -> str:
        """How to get it by Hugging Face's own command."""
        at = f" --revision {self.revision}" if self.revision else ""
        if self.kind == "dataset":
            command = f"hf download {self.name} --repo-type dataset{at}"
            return f"`{command}` puts it where it is found by this name"
        local = f"checkpoints/{self.name.partition('/')[2]}"
        return f"`hf download {self.name}{at} --local-dir {local}` gets it: then give {local}"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def is_name(name: str) -> bool:
    """Whether a name can be one of the hub: its form, and no path here that it may mean."""
    owner = name.partition("/")[0]
    no_path = owner not in OF_FOLDERS and not Path(owner).exists()
    return bool(NAME.fullmatch(name)) and no_path


def _repo(name: str, kind: str) -> Repo:
    found = NAME.fullmatch(name)
    return Repo(kind, found[1], found[2] or "")


# ---- pins


def keep_in(cache_dir: str) -> None:
    """From here on commits are pinned in the cache folder, for this process and its children."""
    os.environ[PINS_FILE] = str(Path(cache_dir).absolute() / "hub.json")


def use(pins: dict[str, str]) -> None:
    """Commits that names stand for, whatever the cache or the hub says: those of a run."""
    if pins:
        os.environ[PINS] = json.dumps(used() | pins)


def used() -> dict[str, str]:
    """{key: commit} of each name that this process or its starter has resolved."""
    return json.loads(os.environ.get(PINS, "{}"))


def pinned(name: str, kind: str = "model") -> str:
    """`owner/name@COMMIT`; UserError where nobody says which commit that is."""
    repo = _repo(name, kind)
    if repo.is_pinned:
        commit = repo.revision
    elif (commit := used().get(repo.key)) is None:
        file = os.environ.get(PINS_FILE, "")
        kept = storage.read_object(file, absent={}) if file else {}
        commit = kept.get(repo.key)
        if commit is None:
            commit = _commit(repo)
            say(f"{repo}: commit {commit} of the Hugging Face hub")
            if file:
                storage.write_json(file, storage.sealed(kept | {repo.key: commit}))
        use({repo.key: commit})
    return f"{repo.name}@{commit}"


def _commit(repo: Repo) -> str:
    """The commit of a revision: the hub's, or without a network that of Hugging Face's cache."""
    try:
        return _info(repo).sha
    except UserError:
        if (held := _cached(repo)) is None:
            raise
        say(f"{repo}: no answer of the hub; what is in {held.parent.parent} is taken")
        return held.name


# ---- files


def folder(name: str, kind: str = "model", choose: Choose | None = None) -> tuple[Path, list[str]]:
    """(the folder of a pinned name's files, the files that were chosen), fetched unless they are
    there."""
    repo = _repo(pinned(name, kind), kind)
    choose = choose or (lambda files: of_model(repo, files))
    note = storage.user_cache() / "hub" / f"{repo.key.replace('/', '--')}.json"
    held = storage.read_object(note, absent={"folder": "", "listed": [], "files": []})
    if held["listed"]:
        files = choose(held["listed"])
        place = Path(held["folder"])
        if set(files) <= set(held["files"]) and all((place / f).is_file() for f in files):
            return place, files
    try:
        listed = [s.rfilename for s in _info(repo).siblings]
        files = choose(listed)
        place = _fetch(repo, files)
    except UserError:
        if (place := _cached(repo)) is None:
            raise
        # what was fetched by Hugging Face's own command, and of which nobody says that it is whole
        say(f"{repo}: no answer of the hub; what is in {place} is taken, whole or not")
        there = sorted(p for p in place.rglob("*") if p.is_file())
        return place, choose([str(p.relative_to(place)) for p in there])
    both = sorted({*held["files"], *files}) if held["folder"] == str(place) else files
    note.parent.mkdir(parents=True, exist_ok=True)
    facts = {"folder": str(place), "listed": listed, "files": both}
    storage.write_json(note, storage.sealed(facts))
    return place, files


def of_model(repo: Repo, files: list[str]) -> list[str]:
    """What is fetched of a model; UserError where its weights are no safetensors."""

    def fits(file: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(file, p) for p in patterns)

    top = [f for f in files if "/" not in f]
    wanted = [f for f in top if fits(f, OF_MODEL) and not fits(f, NOT_OF_MODEL)]
    if not fnmatch.filter(wanted, WEIGHTS):
        hint = ""
        if ggufs := [f for f in top if f.endswith(".gguf")]:
            hint = f"; a GGUF file of it: `hf download {repo.name} {ggufs[0]} --local-dir models`"
        others = [f for f in top if f not in wanted and not f.startswith(".")]
        raise UserError(
            f"{repo} has no *.safetensors; code and pickles are never read, and it has "
            f"{', '.join(others[:6]) or 'no other file'}{hint}"
        )
    return wanted


def _info(repo: Repo) -> Any:
    """What the hub says of a repository; UserError of one line where it says nothing."""
    with _asking(repo) as hub:
        return hub.HfApi().repo_info(
            repo.name, revision=repo.revision or None, repo_type=repo.kind, timeout=TIMEOUT_SECONDS
        )


def _fetch(repo: Repo, files: list[str]) -> Path:
    with _asking(repo) as hub:
        return Path(
            hub.snapshot_download(
                repo.name,
                revision=repo.revision,
                repo_type=repo.kind,
                allow_patterns=[glob.escape(f) for f in files],
            )
        )


def _cached(repo: Repo) -> Path | None:
    """The folder in Hugging Face's cache, if it holds the revision."""
    try:
        with _asking(repo) as hub:
            return Path(
                hub.snapshot_download(
                    repo.name,
                    revision=repo.revision or None,
                    repo_type=repo.kind,
                    local_files_only=True,
                )
            )
    except UserError:
        return None


@contextlib.contextmanager
def _asking(repo: Repo) -> Iterator[Any]:
    """The module `huggingface_hub`. What it raises is one UserError, with the command that gets the
    files where there is a network."""
    why = "the extra hf is not installed: `uv sync --extra hf`"
    try:
        import huggingface_hub

        yield huggingface_hub
    except Exception as e:  # of several libraries, and each means that there is no file
        if not isinstance(e, ImportError):
            why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        raise UserError(
            f"{repo}: no such path, and the Hugging Face hub gives no {repo.kind} of that name "
            f"({why}); where there is a network, {repo.remedy}"
        ) from e
