# SPDX-License-Identifier: Apache-2.0
"""The report's pictures, as PNG bytes. No number here that is not in report.json or
metrics.jsonl."""

import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from itx.eval import stats


@dataclass(frozen=True)
class Colours:
    before: str = "#b8bdc6"
    after: str = "#2563a8"
    chance: str = "#d1701f"
    quiet: str = "#8a8f98"
    ink: str = "#22262b"
    grid: str = "#e6e8eb"
    paper: str = "#ffffff"

    def style(self) -> dict:
        """What matplotlib draws with."""
        inks = ("axes.labelcolor", "text.color", "xtick.color", "ytick.color")
        papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
        return {
            **STYLE,
            **dict.fromkeys(inks, self.ink),
            **dict.fromkeys(papers, self.paper),
            "axes.edgecolor": self.quiet,
            "grid.color": self.grid,
        }


# by day, and by night on the page's dark paper
THEMES = {
    "light": Colours(),
    "dark": Colours("#5b636e", "#7fb2ea", "#f0a35e", "#8a93a0", "#e4e7eb", "#343a42", "#16191d"),
}
LINES = ("#2563a8", "#d1701f", "#3a8f5c", "#a33b5b", "#7a5ca8", "#8a6d3b", "#2a97a5", "#6b7280")
MAX_PANELS = 24  # clusters drawn apart; with more, all tasks stand in one panel
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.hashsalt": "itx",
}


def _pyplot() -> ModuleType:
    """Matplotlib, imported where a picture is drawn: at the head of the file each start of
    `itx train` would wait half a second for it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


# no software or date in a file: the same numbers give the same bytes
_UNSAID = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def _drawn(figure: Any, form: str = "png") -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, dpi=130, metadata=_UNSAID[form])
    _pyplot().close(figure)
    return drawn.getvalue()


def _bars(axes: Any, groups: list[dict], c: Colours) -> None:
    """Scores before and after per group, and where chance is."""
    height = 0.36
    for i, g in enumerate(groups):
        for shift, key, colour in (
            (height / 2, "before", c.before),
            (-height / 2, "after", c.after),
        ):
            average = g.get(key)
            if average is None or average["score"] is None:
                continue
            y, score = len(groups) - 1 - i + shift, average["score"]
            axes.barh(y, score, height * 0.92, color=colour)
            if average["score_interval"]:
                low, high = average["score_interval"]
                axes.plot([low, high], [y, y], color=c.ink, linewidth=0.9)
                end = max(high, score)
            else:
                points = list(average["score_clusters"].values())
                axes.plot(points, [y] * len(points), ".", color=c.ink, markersize=3)
                end = max([*points, score])
            axes.text(end + 0.02, y, f"{score:.2f}", va="center", fontsize=7.5, color=c.ink)
        chance = g["after"]["chance"]
        if chance is not None:
            y = len(groups) - 1 - i
            axes.plot([chance, chance], [y - height, y + height], color=c.chance, linewidth=1.6)
    axes.set_yticks(range(len(groups)), [g["label"] for g in reversed(groups)])
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("score (1 = all right), 95 % interval")
    axes.grid(axis="y", visible=False)
    shown = [
        (colour, n)
        for k, colour, n in (("before", c.before, "before"), ("after", c.after, "after tuning"))
        if any(g.get(k) for g in groups)
    ]
    handles = [_pyplot().Rectangle((0, 0), 1, 1, color=colour) for colour, _ in shown] + [
        _pyplot().Line2D([], [], color=c.chance, linewidth=1.6)
    ]
    axes.legend(
        handles,
        [*(n for _, n in shown), "chance"],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        fontsize=8,
    )


def _loss(axes: Any, loss: dict, c: Colours) -> None:
    """Training loss over steps, with the unigram entropy of the targets for comparison."""
    axes.plot(loss["steps"], loss["total"], color=c.after, linewidth=1.6)
    if loss["unigram_entropy"] is not None:
        axes.axhline(loss["unigram_entropy"], color=c.quiet, linewidth=1, linestyle="--")
        axes.text(
            1.0,
            loss["unigram_entropy"],
            "unigram entropy of targets ",
            color=c.quiet,
            fontsize=7.5,
            ha="right",
            va="bottom",
            transform=axes.get_yaxis_transform(),
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per target token")
    axes.set_ylim(bottom=0)


def picture(groups: list[dict], loss: dict) -> dict[str, bytes]:
    """The one picture of a run, {theme: PNG}: bars before and after per group, and the loss."""

    def draw(colours: Colours) -> Any:
        size = (11, max(3.2, 0.42 * len(groups) + 1.0))
        figure, (left, right) = _pyplot().subplots(
            1, 2, figsize=size, width_ratios=(3, 2), layout="constrained"
        )
        _bars(left, groups, colours)
        _loss(right, loss, colours)
        return figure

    return _themed(draw)


def task_losses(loss: dict) -> dict[str, bytes]:
    """Loss per task, a panel per cluster, all on the same scales: {theme: PNG}."""
    by_cluster = stats.grouped(
        (loss["clusters"].get(name, ""), name) for name in sorted(loss["tasks"])
    )
    if len(by_cluster) > MAX_PANELS:
        by_cluster = {"all tasks": sorted(loss["tasks"])}
    return _themed(lambda _: _panels(by_cluster, loss["tasks"]))


def _themed(draw: Callable[[Colours], Any]) -> dict[str, bytes]:
    """{theme: PNG} of a figure that is drawn by day and by night."""
    pngs = {}
    for theme, colours in THEMES.items():
        with _pyplot().rc_context(colours.style()):
            pngs[theme] = _drawn(draw(colours))
    return pngs


def _panels(by_cluster: dict[str, list[str]], tasks: dict[str, tuple[list, list]]) -> Any:
    columns = min(4, max(1, len(by_cluster)))
    rows = -(-max(1, len(by_cluster)) // columns)
    figure, axes = _pyplot().subplots(
        rows,
        columns,
        figsize=(11, 2.3 * rows + 0.3),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel in axes.flat[len(by_cluster) :]:
        panel.set_visible(False)
    for panel, (cluster, names) in zip(axes.flat, sorted(by_cluster.items()), strict=False):
        for i, name in enumerate(names):
            steps, values = tasks[name]
            panel.plot(steps, values, color=LINES[i % len(LINES)], linewidth=1, label=name)
        panel.set_title(cluster, fontsize=9, loc="left")
        if len(names) <= 12:
            panel.legend(
                fontsize=5.5, frameon=False, handlelength=1, labelspacing=0.2, loc="upper right"
            )
    axes.flat[0].set_ylim(bottom=0)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("loss, nats per target token", fontsize=9)
    return figure


def lines_with_points(
    lines: dict[str, list[tuple[float, list[float]]]],
    labels: tuple[str, str],
    ticks: list[str] | None = None,
    log: bool = False,
    notes: Sequence[str] = (),
    joined: bool = True,
    form: str = "png",
) -> bytes:
    """Lines through the means of several values at each place, and the values themselves.

    Args:
        lines: {label: [(place, values there)]}.
        labels: of the two axes.
        ticks: names of the places 0, 1, …, where they are no numbers.
        notes: what stands beside the points of the first line.
        joined: whether a line goes through the means.
        form: png or svg.
    """
    plt, c = _pyplot(), THEMES["light"]
    with plt.rc_context(c.style()):
        figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
        for (label, places), colour in zip(lines.items(), itertools.cycle(LINES), strict=False):
            known = [(x, values) for x, values in places if values]
            means = [sum(values) / len(values) for _, values in known]
            style = "-" if joined else ""
            axes.plot([x for x, _ in known], means, style, color=colour, marker="o", label=label)
            for x, values in known:
                axes.plot([x] * len(values), values, ".", color=colour, alpha=0.5, markersize=4)
        for note, (x, values) in zip(notes, next(iter(lines.values())), strict=False):
            axes.annotate(note, (x, values[0]), (4, 4), textcoords="offset points", fontsize=8)
        if log:
            axes.set_xscale("log")
        if ticks:
            turned = {"rotation": 30, "ha": "right"} if max(map(len, ticks)) > 12 else {}
            axes.set_xticks(range(len(ticks)), ticks, **turned)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if len(lines) > 1:
            axes.legend(frameon=False)
        return _drawn(figure, form)
