# SPDX-License-Identifier: Apache-2.0
"""The versions of the code and of the libraries that compute."""

import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from itx import hashing

LIBRARIES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore"),
    *("grain", "numpy", "ml_dtypes", "sentencepiece"),
)


def versions() -> dict[str, str]:
    """{"python": "3.12.3", "jax": …}"""
    return {"python": sys.version.split()[0], **{name: version_of(name) for name in LIBRARIES}}


def in_a_line() -> str:
    """What `itx --version` prints: of the package, the code, Python and JAX."""
    of = versions()
    return f"itx {version_of('itx')}, code {code_version()}, Python {of['python']}, JAX {of['jax']}"


def version_of(name: str) -> str:
    """The version of an installed package, or "absent"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def code_version() -> str:
    """The git commit of the code; the package's version outside a checkout, or "unknown". Where
    that does not say what the files hold, a hash of them follows a plus."""
    package = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        if not git("status", "--porcelain", "--", "."):
            return name
    except (OSError, subprocess.CalledProcessError):
        name = version_of("itx")
    return f"{'unknown' if name == 'absent' else name}+{_sources(package)}"


def _sources(package: Path) -> str:
    """A hash of a package's Python files."""
    files = sorted(package.rglob("*.py"), key=str)
    held = "".join(f"{f.relative_to(package)}\n{hashing.file_sha256(f)}\n" for f in files)
    return hashlib.sha256(held.encode()).hexdigest()[:8]
