# SPDX-License-Identifier: Apache-2.0
"""What a study's facts (study.json) say, in Markdown and as a picture, and where a page of results
takes it in."""

from pathlib import Path
from typing import Any

from itx import storage
from itx.analysis import plots
from itx.analysis.compare import MIN_SEEDS
from itx.errors import UserError
from itx.study import purity
from itx.study.spec import UNITS

# expected verdict -> what it says of the other side, beside the first
IN_WORDS = {
    "better": "better than",
    "worse": "worse than",
    "equivalent": "equivalent to",
    "unresolved": "not resolved from",
}


def numbers(measures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in measures.items())


def searched(found: dict[str, Any]) -> str:
    """What `purity.check` found, in a line."""
    skipped = [f"{n:,} ({reason})" for reason, n in found["skipped"].items()]
    return (
        f"searched {found['documents']:,} documents, none of which holds a question mark or any of "
        f"{found['instructions']:,} runs of {purity.MIN_WORDS} or more words that the tasks' "
        f"templates instruct by; {found['short']:,} shorter runs were not looked for; "
        f"{found['left_out']:,} of the documents hold a test input and are left out of training; "
        f"further records of the source: {', '.join(skipped) or 'none'}"
    )


def markdown(facts: dict[str, Any], picture: str) -> str:
    """The study in words: its design, a table of sides, a table of tests, sentences.

    Args:
        picture: the file to show; "": none.
    """
    parts = [f"**{facts['question']}**", "", *_design(facts), ""]
    if picture and any(s["draws"] for s in facts["sides"]):
        parts += [f"![{facts['study']}]({picture})", ""]
    parts += [*_sides(facts), "", *_tests(facts), ""]
    parts += [f"- {line}" for line in _sentences(facts)]
    return "\n".join(parts) + "\n"


def _design(facts: dict[str, Any]) -> list[str]:
    runs = facts["runs"]
    done = [r for r in runs if r["values"]]
    units = {m["name"]: UNITS[m["kind"]] for m in facts["measures"]}
    first, *others = [f"{name} ({unit})" for name, unit in units.items()]
    lines = [
        f"`{facts['command']}`: {len(facts['sides'])} sides in {len(facts['draws'])} of "
        f"{facts['all_draws']} draws, {len(done)} of {len(runs)} runs done{_times(done)}. "
        f"{_tokens(done)}",
        f"Primary measure, fixed before any run: {first}; beside it {', '.join(others) or 'none'}; "
        f"of up to {facts['examples']} examples a task, {facts['split']} split. Intervals are of "
        "95 %, Student's over draws; that of a difference of scores is never narrower than the "
        "number of examples allows.",
    ]
    if facts["quick"]:
        lines.append("The quick variant, of a few steps: it proves that the study runs, no more.")
    if facts["overrides"]:
        lines.append(f"Settings of all runs: `{' '.join(facts['overrides'])}`.")
    found = searched(facts["base"]) if facts["base"] else "what they were searched for is not known"
    lines.append(f"The documents of the base: {found}.")
    if facts["notes"]:
        lines.append(facts["notes"])
    return lines


def _times(done: list[dict]) -> str:
    seconds = [r["seconds"] for r in done if r["seconds"] is not None]
    return f" in {sum(seconds) / 60:.0f} min" if seconds else ""


def _tokens(done: list[dict]) -> str:
    """How many tokens the runs were trained on."""
    trained = [r["tokens"] for r in done if r["steps"]]
    if not trained:
        return "None trains."
    low, high = min(trained), max(trained)
    return f"A run that trains does so on {low:,} to {high:,} tokens."


def _sides(facts: dict[str, Any]) -> list[str]:
    names = [m["name"] for m in facts["measures"]]
    rows = []
    for s in facts["sides"]:
        cells = [
            _with_interval(s["measures"][n]["mean"], s["measures"][n]["interval"]) for n in names
        ]
        rows.append([s["side"], str(s["draws"]), *cells])
    return _table(["side", "draws", *names], rows)


def _tests(facts: dict[str, Any]) -> list[str]:
    rows = []
    for t in facts["tests"]:
        known = "interval" in t
        rows.append(
            [
                t["name"],
                t["measure"],
                _difference(t),
                ", ".join(f"{value:+.3f}" for value in t["values"]) or "none",
                f"{t['smallest']:.3f}" if known else "not known",
                f"{t['margin']:.3g}",
                t["verdict"],
            ]
        )
    head = ["test", "measure", "difference", "in each draw", "smallest detectable"]
    return _table([*head, "equivalent within", "verdict"], rows)


def _sentences(facts: dict[str, Any]) -> list[str]:
    out = [_beside_others(t) for t in facts["tests"] if "source" in t]
    out += [
        f"“{t['other']}” gains accuracy over “{t['first']}” and no instruction information: a gain "
        "in format."
        for t in facts["tests"]
        if t["kind"] == "score" and t["verdict"] == "better" and _tells_no_more(t, facts["tests"])
    ]
    out += [
        f"{t['name']}, {t['measure']}: unresolved, since {t['reason']}."
        for t in facts["tests"]
        if "reason" in t
    ]
    short = [t for t in facts["tests"] if t["draws"] < MIN_SEEDS]
    if short:
        out.append(
            f"{len(short)} of {len(facts['tests'])} tests have fewer than {MIN_SEEDS} draws, from "
            "which nothing is claimed of recipes."
        )
    if missing := [r["run"] for r in facts["runs"] if not r["values"] and not r["failed"]]:
        out.append(f"Not run: {', '.join(missing)}.")
    out += [f"Failed: {r['run']}: {r['failed']}." for r in facts["runs"] if r["failed"]]
    return out


def _tells_no_more(test: dict[str, Any], tests: list[dict]) -> bool:
    """Whether it is shown that the instruction tells the side that scores better no more than the
    other; that nothing was resolved shows nothing."""
    same = [t for t in tests if t["name"] == test["name"] and t["kind"] == "bits"]
    shown = all(t["verdict"] in ("equivalent", "worse") for t in same)
    return "other" in test and bool(same) and shown


def _beside_others(test: dict[str, Any]) -> str:
    """Where the study stands to what others found."""
    verdict, source = test["verdict"], test["source"]
    said = f"Here “{test['other']}” is {IN_WORDS[verdict]} “{test['first']}” in {test['measure']}"
    if "difference" in test:
        said += f": {_difference(test)}"
    if verdict == test["expected"]:
        return f"Agrees. {source}. {said}."
    if verdict == "unresolved":
        least = f"; the smallest detectable: {test['smallest']:.3f}" if "smallest" in test else ""
        return f"Not resolved. {source}. {said}{least}."
    return f"Disagrees. {source}. {said}."


def _with_interval(mean: float | None, interval: list[float] | None) -> str:
    if mean is None:
        return "not run"
    return f"{mean:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _difference(test: dict[str, Any]) -> str:
    if "difference" not in test:
        return "not known"
    if "interval" not in test:
        return f"{test['difference']:+.3f}"
    low, high = test["interval"]
    return f"{test['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def picture(facts: dict[str, Any]) -> bytes:
    """The primary measure of each side, a point for each draw, as SVG: along the places where sides
    have some, else side by side."""
    measure = facts["measures"][0]
    sides = [s for s in facts["sides"] if s["draws"]]
    unit = f"{measure['name']}\n{UNITS[measure['kind']]}"
    values = [list(s["measures"][measure["name"]]["values"].values()) for s in sides]
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for s, v in zip(sides, values, strict=True):
        if "place" in s:
            lines.setdefault(s["line"], []).append((s["place"], v))
    known = [place for points in lines.values() for place, _ in points]
    if len(set(known)) < 2:
        places = [(float(i), v) for i, v in enumerate(values)]
        ticks = [s["side"] for s in sides]
        return plots.lines_with_points({"": places}, ("", unit), ticks, joined=False, form="svg")
    for s, v in zip(sides, values, strict=True):
        if "place" not in s:  # a level to compare with, drawn across
            lines[s["side"]] = [(p, [sum(v) / len(v)]) for p in (min(known), max(known))]
    return plots.lines_with_points(lines, (facts["axis"], unit), log=facts["log"], form="svg")


# ---- a page of results


def _marks(study: str) -> tuple[str, str]:
    return f"<!-- study {study} -->\n", f"<!-- end study {study} -->"


def check_marks(file: Path, study: str, quick: bool) -> None:
    """UserError where a page has no place for the study."""
    if quick:
        raise UserError("--page: the numbers of a quick variant are no results")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if any(text.count(mark) != 1 for mark in _marks(study)):
        first, last = (mark.strip() for mark in _marks(study))
        raise UserError(f"--page: {file} needs a line {first} and, below it, a line {last}")


def put(file: Path, study: str, text: str) -> None:
    """Put a text between the marks of a study."""
    before, after = file.read_text(encoding="utf-8"), _marks(study)
    head, _, rest = before.partition(after[0])
    _, mark, tail = rest.partition(after[1])
    with storage.whole_file(file) as part:
        part.write_text(head + after[0] + text + mark + tail, encoding="utf-8")
