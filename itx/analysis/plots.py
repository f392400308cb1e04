# SPDX-License-Identifier: Apache-2.0
"""The report's pictures, as PNG bytes. No number here that is not in report.json or metrics.jsonl."""

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)

BEFORE, AFTER, CHANCE, QUIET, INK = "#b8bdc6", "#2563a8", "#d1701f", "#8a8f98", "#22262b"
LINES = ("#2563a8", "#d1701f", "#3a8f5c", "#a33b5b", "#7a5ca8", "#8a6d3b", "#2a97a5", "#6b7280")
MOST_PANELS = 24  # clusters drawn apart; with more, all tasks stand in one panel
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "grid.color": "#e6e8eb", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "svg.hashsalt": "itx",
}  # fmt: skip


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    # no Software or date in the file: the same numbers give the same bytes
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()


def _bars(axes: Any, groups: list[dict]) -> None:
    """Scores before and after per group, and where chance is."""
    height = 0.36
    for i, g in enumerate(groups):
        for shift, key, colour in ((height / 2, "before", BEFORE), (-height / 2, "after", AFTER)):
            found = g.get(key)
            if found is None or found["score"] is None:
                continue
            y, score = len(groups) - 1 - i + shift, found["score"]
            axes.barh(y, score, height * 0.92, color=colour)
            if found["score_interval"]:
                low, high = found["score_interval"]
                axes.plot([low, high], [y, y], color=INK, linewidth=0.9)
                end = max(high, score)
            else:
                points = list(found["score_clusters"].values())
                axes.plot(points, [y] * len(points), ".", color=INK, markersize=3)
                end = max([*points, score])
            axes.text(end + 0.02, y, f"{score:.2f}", va="center", fontsize=7.5, color=INK)
        chance = g["after"]["chance"]
        if chance is not None:
            y = len(groups) - 1 - i
            axes.plot([chance, chance], [y - height, y + height], color=CHANCE, linewidth=1.6)
    axes.set_yticks(range(len(groups)), [g["label"] for g in reversed(groups)])
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("score (1 = all right), 95 % interval")
    axes.grid(axis="y", visible=False)
    shown = [(c, n) for k, c, n in (("before", BEFORE, "before"), ("after", AFTER, "after tuning"))
             if any(g.get(k) for g in groups)]  # fmt: skip
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c, _ in shown] + [
        plt.Line2D([], [], color=CHANCE, linewidth=1.6)
    ]
    axes.legend(handles, [*(n for _, n in shown), "chance"], loc="lower left", bbox_to_anchor=(0, 1), ncols=3,
                frameon=False, fontsize=8)  # fmt: skip


def _loss(axes: Any, loss: dict) -> None:
    """Training loss over steps, with the unigram entropy of the targets for comparison."""
    axes.plot(loss["steps"], loss["total"], color=AFTER, linewidth=1.6)
    if loss["unigram_entropy"] is not None:
        axes.axhline(loss["unigram_entropy"], color=QUIET, linewidth=1, linestyle="--")
        axes.text(1.0, loss["unigram_entropy"], "unigram entropy of targets ", color=QUIET, fontsize=7.5,
                  ha="right", va="bottom", transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per target token")
    axes.set_ylim(bottom=0)


def picture(groups: list[dict], loss: dict) -> bytes:
    """The one picture of a run: bars before and after per group, and the loss."""
    with plt.rc_context(STYLE):
        height = max(3.2, 0.42 * len(groups) + 1.0)
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, height), width_ratios=(3, 2), layout="constrained")
        _bars(left, groups)
        _loss(right, loss)
        return _png(figure)


def task_losses(loss: dict) -> bytes:
    """Loss per task, a panel per cluster, all on the same scales."""
    by_cluster: dict[str, list[str]] = {}
    for name in sorted(loss["tasks"]):
        by_cluster.setdefault(loss["clusters"].get(name, ""), []).append(name)
    if len(by_cluster) > MOST_PANELS:
        by_cluster = {"all tasks": sorted(loss["tasks"])}
    columns = min(4, max(1, len(by_cluster)))
    rows = -(-max(1, len(by_cluster)) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(11, 2.3 * rows + 0.3), sharex=True, sharey=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for panel in axes.flat[len(by_cluster) :]:
            panel.set_visible(False)
        for panel, (cluster, names) in zip(axes.flat, sorted(by_cluster.items()), strict=False):
            for i, name in enumerate(names):
                steps, values = loss["tasks"][name]
                panel.plot(steps, values, color=LINES[i % len(LINES)], linewidth=1, label=name)
            panel.set_title(cluster, fontsize=9, loc="left")
            if len(names) <= 12:
                panel.legend(fontsize=5.5, frameon=False, handlelength=1, labelspacing=0.2, loc="upper right")
        axes.flat[0].set_ylim(bottom=0)
        figure.supxlabel("step", fontsize=9)
        figure.supylabel("loss, nats per target token", fontsize=9)
        return _png(figure)
