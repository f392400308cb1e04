# SPDX-License-Identifier: Apache-2.0
"""Where the registry `tasks/` and the recipes `configs/` that come with itx stand.

In a clone that is the top folder. In a wheel it is the folder `bundled` of the package
(pyproject.toml, package-dir), since packages called `tasks` and `configs` at the top of
site-packages would be in the way of other people's.
"""

import sys
import sysconfig
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "bundled"
FOLDER = _BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent
TASKS, RECIPES = FOLDER / "tasks", FOLDER / "configs"
STUDIES = RECIPES / "studies"


def put_tasks_on_path() -> None:
    """Let `import tasks` find the shipped registry, unless the folder one stands in has its own.
    It comes before installed packages, where `tasks` would be somebody else's."""
    if str(FOLDER) not in sys.path:
        installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        at = next((i for i, p in enumerate(sys.path) if p in installed), len(sys.path))
        sys.path.insert(at, str(FOLDER))


def recipe(name: str) -> Path | None:
    """The file of the shipped recipe of that name, such as `quickstart`; None where the name is a
    path, or no recipe has it."""
    file = RECIPES / f"{name}.py"
    return file if Path(name).name == name and file.is_file() else None


def recipe_names() -> list[str]:
    return sorted(file.stem for file in RECIPES.glob("*.py"))


def study_names() -> list[str]:
    """Of the files beside each other in STUDIES those that are studies."""
    files = sorted(STUDIES.glob("*.py"))
    return [file.stem for file in files if "def get_study(" in file.read_text(encoding="utf-8")]
