# SPDX-License-Identifier: Apache-2.0
"""report.html: what report.html.jinja makes of the facts of report.py; analysis.html: what
analysis.html.jinja makes of those of analyze.py; loop.html: what loop.html.jinja makes of those of
itx/commands/loop.py; a review page: what review.html.jinja and
review.js make of those of itx/create/review.py."""

import base64
import functools
import hashlib
import html
import json
from pathlib import Path
from typing import Any

import jinja2
from jinja2.environment import TemplateModule
from markupsafe import Markup

from itx.analysis import words
from itx.audit.sentences import accounts, reasons
from itx.eval import metrics
from itx.eval.summary import RANKINGS
from itx.eval.tables import percent, shown
from itx.leaks.contamination import TESTED

FOLDER = Path(__file__).parent


def page(facts: dict, picture: dict[str, bytes], task_losses: dict[str, bytes]) -> str:
    """The whole page from the facts and two pictures, {"light", "dark": PNG}."""
    return str(macros().page(facts, _addresses(picture), _addresses(task_losses)))


def analysis(facts: dict) -> str:
    """The page of `itx analyze`."""
    return str(macros("analysis.html.jinja").page(facts))


def loop(facts: dict) -> str:
    """The page of `itx loop`."""
    return str(macros("loop.html.jinja").page(facts))


def review(facts: dict) -> str:
    """The page of `itx create review`."""
    return _operated("review", facts, facts)


def blind(facts: dict) -> str:
    """The page of `itx compare --blind`."""
    return _operated("blind", facts, {k: v for k, v in facts.items() if k != "left_out"})


def _operated(name: str, facts: dict, data: dict) -> str:
    """A page that is operated by keys. Its rows are JSON in which no `<` stands, so that nothing in
    them can end the element that holds them."""
    held = json.dumps(data).replace("<", "\\u003c")
    return str(macros(f"{name}.html.jinja").page(facts, Markup(held), Markup(script(name))))


def script(name: str) -> str:
    """The script of a page that is operated by keys."""
    return "".join((FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in ("keys", name))


def _addresses(pngs: dict[str, bytes]) -> dict[str, str]:
    return {
        theme: f"data:image/png;base64,{base64.b64encode(png).decode()}"
        for theme, png in pngs.items()
    }


@functools.cache
def macros(file: str = "report.html.jinja") -> TemplateModule:
    """A template's macros; `page` is the document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=esc,
        undefined=jinja2.StrictUndefined,  # a fact that is not there is an error, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters["number"] = format
    environment.globals |= {
        "accounts": accounts,
        "beside": words.beside,
        "hash_of": hash_of,
        "metric_name": metrics.shown,
        "percent": percent,
        "rankings": RANKINGS,
        "reasons": reasons,
        "shown": shown,
        "tested": TESTED,
        "words": words,
    }
    return environment.get_template(file).module


def esc(value: Any) -> Markup:
    """A value as HTML shows it. What a macro has made is escaped already."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def hash_of(text: str) -> Markup:
    """How a Content-Security-Policy names a script or a style that may act."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")
