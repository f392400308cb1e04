# SPDX-License-Identifier: Apache-2.0
"""report.html: one file, no network, one script of our own (look.py). Every text from data passes
through `esc`."""

import base64
import html
from typing import Any

from itx.analysis import look, words
from itx.audit import sentences
from itx.eval import metrics
from itx.eval.summary import RANKINGS
from itx.eval.tables import percent, shown
from itx.leaks.contamination import TESTED


def esc(value: Any) -> str:
    return html.escape(str(value), quote=True)


def image(pngs: dict[str, bytes], alt: str) -> str:
    """A picture by day and by night: {"light", "dark": PNG}."""
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(pngs[k]).decode()}" for k in ("light", "dark")
    )
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return (
        f'<div class="wide"><picture>{source}<img alt="{esc(alt)}" src="{light}"></picture></div>'
    )


def table(
    head: list[str], rows: list[list], numbers: set[int] = frozenset(), kind: str = "lines"
) -> str:
    """A table of escaped cells that a click on a head sorts; columns in `numbers` stand right.

    kind: "lines", a line for each row, wider than a phone, which keeps the first column in sight;
    or "cards", few rows of which a phone shows one below the other.
    """

    def css(i):
        return ' class="n"' if i in numbers else ""

    top = "".join(
        f'<th{css(i)}><button type="button">{esc(h)}</button></th>' for i, h in enumerate(head)
    )

    def cells(r):
        return "".join(
            f'<td{css(i)} data-label="{esc(head[i])}">{esc(c)}</td>' for i, c in enumerate(r)
        )

    body = "".join(f"<tr>{cells(r)}</tr>" for r in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def page(found: dict, picture: dict[str, bytes], task_losses: dict[str, bytes]) -> str:
    """The whole page from the facts of report.py and two pictures."""
    title = "Before and after" if "before" in found["steps"] else "Scores"
    parts = [
        ("scores", title, _scores(found) + image(picture, "scores by group and training loss")),
        ("instruction", "Does it read the instruction?", _instruction(found)),
        ("retention", "Retention", _retention(found)),
        ("shows", "What this model can and cannot show", _shows(found)),
        ("loss", "Loss", _loss(found) + image(task_losses, "loss per task, a panel per cluster")),
        ("samples", f"{sum(map(len, found['samples'].values()))} outputs", _samples(found)),
        ("tasks", "Every row", _rows(found)),
        ("data", "Data audit", _audit(found)),
        ("heldout", "Held out of training", _holdout(found)),
        ("repeat", "Repeat it", _repeat(found)),
    ]
    parts = [p for p in parts if p[2]]
    links = "".join(f'<a href="#{key}">{esc(title)}</a>' for key, title, _ in parts)
    body = "".join(f'<h2 id="{key}">{esc(title)}</h2>{text}' for key, title, text in parts)
    about = f"{found['config_file']}, step {found['steps']['after']}; data {found['data_hash']}, code {found['code']}"
    name = esc(found["config_file"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: report</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{look.POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{look.CSS}</style></head>'
        f'<body><h1>Instruction tuning report</h1><p class="quiet">{esc(about)}</p>{_lead(found["summary"])}'
        f"<nav>{links}</nav>{body}<script>{look.SCRIPT}</script></body></html>\n"
    )


def _lead(summary: dict[str, list[str]]) -> str:
    """In words: what was learned, what was not, what to do next."""
    said = [
        f"<p><b>{esc(key.capitalize())}.</b> {esc(' '.join(of))}</p>"
        for key, of in summary.items()
        if of
    ]
    return f'<div class="lead">{"".join(said)}</div>'


# ---- scores
# ----------------------------------------------------------------------------------------


def _scores(found: dict) -> str:
    e = found["evaluation"]
    most = ", ".join("all" if v == 0 else str(v) for v in e["max_examples"])
    looks = (
        f"the test split was looked at {e['looks_at_test']} times"
        if e["looks_at_test"]
        else "the test split was not looked at"
    )
    below = any(g["says"].startswith("below") for g in found["groups"])
    text = (f"<p>Scored on {esc(words.splits(e))}: <b>eval.max_examples = {esc(most)}</b> examples per row, "
            f"each in every template of the row; {looks}. Scores are means over tasks, then over clusters, of what each row's "
            "metric gives its generated answers (or its ranked options, where the metric is “rank”). Chance is what the "
            "commonest answer or a drawn option would score. “None of the options” is the share of generated answers that are no "
            "option at all. The reading is of score − chance as a share of the most that it could be, −1 to 1, averaged likewise; "
            "scores corrected for chance, (score − chance) / (1 − chance), stand in report.json. Intervals: 95 %, a hierarchical bootstrap over clusters, tasks and examples; with fewer "
            "than 8 clusters Student's t over the clusters, whose points are listed; for a single task that of its row; none narrower than Wilson's of all examples together. Groups are "
            "never pooled." + (" Below chance means fewer right answers than always giving the commonest one." if below else "") + f"</p><p>{esc(' '.join([words.easy(found) + '.', *words.scope(e)]))}</p>")  # fmt: skip
    rows = [_group_row(g) for g in found["groups"] if g["group"] != "instruction"]
    head = [*HEAD, "reading", "clusters (after)"]
    return text + table(head, rows, {1, 2, 3, 4, 5, 6}, "cards")


HEAD = ["group", "before", "after", "chance", "none of the options", "tasks", "clusters"]


def _group_row(g: dict) -> list:
    before, after = g.get("before"), g["after"]
    few = len(after["score_clusters"]) < 8
    points = ", ".join(f"{c} {v:.2f}" for c, v in after["score_clusters"].items()) if few else ""
    return [g["label"], shown(before["score"], before["score_interval"]) if before else "-",
            shown(after["score"], after["score_interval"]), shown(after["chance"]), percent(after["none_of_options"]),
            after["tasks"], len(after["clusters"]), g["says"], points]  # fmt: skip


def _instruction(found: dict) -> str:
    groups = [g for g in found["groups"] if g["group"] == "instruction"]
    if not groups:
        return ""
    text = ("<p>Tasks that share their inputs with others, so that only the instruction tells them apart. "
            "Scored against the task's own answer with its instruction, without it (the input alone), and with the "
            "instruction of another task on the same inputs. A model that reads instructions falls in the last two.</p>")  # fmt: skip
    rows = [_group_row(g)[:7] for g in groups]
    by_task: dict[str, dict] = {}
    for r in found["rows"]:
        if r["group"] == "instruction":
            by_task.setdefault(r["task"], {})[r["ablation"]] = r["score"]
    kinds = ("none", "removed", "swapped")
    each = table(["task", "kept", "removed", "swapped"],
                 [[t, *(shown(v.get(k)) for k in kinds)] for t, v in by_task.items()], {1, 2, 3})  # fmt: skip
    head = ["instruction", *HEAD[1:]]
    each = f"<details><summary>by task</summary>{each}</details>"
    return text + table(head, rows, set(range(1, 7)), "cards") + each


def _shows(found: dict) -> str:
    groups = words.main_groups(found)
    lines = [f"<b>{esc(g['label'])}</b>: {shown(g['after']['score'], g['after']['score_interval'])}, chance "
             f"{shown(g['after']['chance'])}: {esc(g['says'])}." for g in groups]  # fmt: skip
    paragraphs = "".join(f"<p>{esc(c)}</p>" for c in found["claims"])
    return "<ul>" + "".join(f"<li>{x}</li>" for x in lines) + "</ul>" + paragraphs


def _loss(found: dict) -> str:
    loss = found["loss"]
    if not loss["total"]:
        return "<p>metrics.jsonl holds no loss.</p>"
    entropy = loss["unigram_entropy"]
    said = (f"Loss {loss['total'][0]:.3f} at step {loss['steps'][0]}, {loss['total'][-1]:.3f} at step "
            f"{loss['steps'][-1]}, in nats per target token. {loss['tokens']:,} tokens read. "
            f"{loss['skipped_steps']} steps skipped because their loss or gradient was not finite.")  # fmt: skip
    if entropy is not None:
        side = "below" if loss["total"][-1] < entropy else "not below"
        said += f" The unigram entropy of the targets is {entropy:.3f}: the loss ends {side} it."
    said += "".join(f" {note}" for note in loss["notes"])
    if loss["without_loss"]:
        said += f" No token of these tasks was trained on: {', '.join(loss['without_loss'])}."
    return f"<p>{esc(said)}</p>" + _fixed(found["fixed_examples"])


def _fixed(fixed: dict | None) -> str:
    """Loss on the same held-in examples before and after: {"before": {task: loss}, "after": …}."""
    if (
        not fixed
        or not isinstance(fixed.get("before"), dict)
        or not isinstance(fixed.get("after"), dict)
    ):
        return ""
    both = [t for t in sorted(fixed["before"]) if t in fixed["after"]]
    fell = sum(fixed["after"][t] < fixed["before"][t] for t in both)
    rows = [[t, f"{fixed['before'][t]:.3f}", f"{fixed['after'][t]:.3f}"] for t in both]
    return (f"<p>On the same held-in examples (at most 16) of each row the mean loss fell on {fell} of {len(both)} rows.</p>"
            f"<details><summary>by row</summary>{table(['task', 'before', 'after'], rows, {1, 2})}</details>")  # fmt: skip


def _retention(found: dict) -> str:
    kept = found["retention"]
    if kept is None:
        return ""
    if "unretained" in kept:
        return f"<p>Not measured: {esc(kept['unretained'])}.</p>"
    before, after = kept.get("before", {}), kept.get("after", {})
    rows = [[n, t["objective"], f"{t['bytes']:,}", f"{before[n]['bits_per_byte']:.3f}" if n in before else "-",
             f"{t['bits_per_byte']:.3f}", f"{t['bits_per_byte'] - before[n]['bits_per_byte']:+.3f}" if n in before else "-"]
            for n, t in after.items()]  # fmt: skip
    few_shot = any(g["group"] == "retention" for g in found["groups"])
    head = ["text", "objective", "UTF-8 bytes", "before, bits per byte", "after", "change"]
    return ("<p>What tuning cost on held-out plain text: the sum of −log2 p over its tokens by the UTF-8 bytes that they "
            "stand for, by the model before and after tuning. Lower is better; a rise is forgetting."
            + (" The few-shot tasks of eval.retention stand in the table above." if few_shot else "") + "</p>" + table(head, rows, {2, 3, 4, 5}, "cards"))  # fmt: skip


def _samples(found: dict) -> str:
    out = [
        "<p>Drawn by hash among right and wrong answers, at most one of each kind per task; not chosen by hand.</p>"
    ]
    for kind in ("good", "bad"):
        for s in found["samples"][kind]:
            extracted = (
                ""
                if s["extracted"] in (None, s["prediction"].strip())
                else f" → {esc(s['extracted'])}"
            )
            extracted = " → no answer extracted" if s["extracted"] is None else extracted
            about = f"{esc(s['label'])}, score {s['score']:.2f}"
            wanted = esc(" | ".join(s["references"]))
            out.append(
                f'<div class="sample {kind}"><b>{esc(s["task"])}</b> <span class="quiet">{about}</span>'
                f"<pre>{esc(s['prompt'])}</pre>said <pre>{esc(s['prediction'])}</pre>"
                f'<span class="quiet">wanted: {wanted}{extracted}</span></div>'
            )
    return "".join(out)


def _rows(found: dict) -> str:
    head = ["row", "before", "score", "95 %", "chance", "none of the options", "n", "prompts", "no answer", "cut at limit",
            "metric", "group", "cluster", "relation to training", "chance is of the", "limit"]  # fmt: skip
    shown_rows = [r for r in found["rows"] if r["group"] != "instruction"]
    rows = []
    for r in shown_rows:
        group = (
            f"{r['group']}, {r['grade']}"
            if r["grade"] and r["group"] in ("tasks", "clusters")
            else r["group"]
        )
        interval = "{:.2f} to {:.2f}".format(*r["interval"]) if r["interval"] else "-"
        rows.append([r["row"] + (" (easy)" if r["easy"] else ""), shown(r["before"]), shown(r["score"]), interval,
                     shown(r["chance"]), percent(r.get("none_of_options")), r["examples"], r["prompts"], r["no_answer"],
                     r["hit_limit"], metrics.shown(r["metric"]), group, r["cluster"], r["relation"], r["chance_from"],
                     f"{r['limit']} tokens, {r.get('limit_from', 'eval.max_new_tokens')}"])  # fmt: skip
    text = ("<p>Intervals are Wilson's, with n = examples: an example in several templates counts once; those of BLEU and "
            "chrF, which count over the whole row, are a bootstrap's over examples. “No answer” and “cut at limit” count "
            "prompts: the answer's pattern did not occur, or generation ended at the row's limit, which the named setting makes "
            "longer.</p>")  # fmt: skip
    return (
        text
        + table(head, rows, set(range(1, 10)))
        + _notices(shown_rows)
        + _by_template(shown_rows)
    )


def _by_template(shown_rows: list[dict]) -> str:
    """Ranking, templates and places of the right option, row by row."""
    head = [
        "row",
        *(f"rank {r}" for r in RANKINGS),
        "templates",
        "least",
        "most",
        "by gold position",
    ]
    rows = []
    for r in shown_rows:
        of = [v["score"] for v in r["by_template"].values()]
        places = " ".join(f"{k}:{v['score']:.2f}" for k, v in r["by_gold_position"].items())
        rows.append([r["row"], *(shown(r["rank"][k]) if r["rank"] else "-" for k in RANKINGS), len(of),
                     shown(min(of, default=None)), shown(max(of, default=None)), places or "-"])  # fmt: skip
    return ("<details><summary>ranking, templates and gold positions of every row</summary><p>Ranking stands beside generation "
            "and is never mixed with it: the right option's share of first places by summed log-probability, per token, per "
            "byte, and calibrated by a neutral prompt. Least and most are over the row's templates, each of which stands in "
            f"report.json.</p>{table(head, rows, set(range(1, 8)))}</details>")  # fmt: skip


def _notices(shown_rows: list[dict]) -> str:
    """What makes a row's score too low for a reason that is not the model's, and how sacrebleu
    counts."""
    said = []
    for r in shown_rows:
        if r["limit_below_gold"]:
            said.append(
                f"{r['row']}: some right answers are longer than the limit of {r['limit']} tokens"
            )
        if r["prompts_longer_than_a_row"]:
            said.append(
                f"{r['row']}: {r['prompts_longer_than_a_row']} prompts are longer than a training row"
            )
        said += [f"{r['row']}: {signature}" for signature in r.get("signatures", {}).values()]
    lines = "".join(f"<li>{esc(x)}</li>" for x in said)
    return (
        f"<details open><summary>to know about these rows</summary><ul>{lines}</ul></details>"
        if said
        else ""
    )


# ---- data
# ------------------------------------------------------------------------------------------


def _audit(found: dict) -> str:
    audit = found["audit"]
    if not audit:
        return "<p>No audit.json in the run folder.</p>"
    m = audit["mixture"]
    text = (f"<p>Mixture {esc(m['name'])}: {m['steps']:,} steps take about {m['examples']:,} examples, "
            f"{m['input_tokens']:,} input tokens and {m['target_tokens']:,} target tokens; {m['filled']:.1%} of the "
            f"places in rows are filled.</p>")  # fmt: skip
    head = ["task", "cluster", "read", "usable", "trained on", "skipped", "templates", "epochs", "% examples", "% input tokens",
            "% target tokens", "input p50/p95/max", "target p50/p95/max"]  # fmt: skip

    def spread(s):
        return f"{s['median']:.0f}/{s['p95']:.0f}/{s['max']}"

    rows = [[n, f["cluster"], f"{f['read']:,}", f"{f['kept']:,}", f"{f['used']:,}" if "used" in f else "",
             sentences.reasons(f["skipped"]), f["templates"],
             f"{f['effective_epochs']:.2f}", f"{f['rate']:.1%}", f"{f['input_share']:.1%}", f"{f['target_share']:.1%}",
             spread(f["input_length"]), spread(f["target_length"])] for n, f in audit["tasks"].items()]  # fmt: skip
    text += table(head, rows, {2, 3, 4, 6, 7, 8, 9, 10, 11, 12})
    text += f"<p>{esc(sentences.accounts(audit))}</p>"
    return text + _leaks(audit) + _easy(audit) + _notes(audit)


def _leaks(audit: dict) -> str:
    dropped, left = audit["leaks"]["dropped"], audit["leaks"]["left"]
    if why := audit["leaks"].get("untested"):
        return f"<p>What evaluation asks was not looked for in the training data: {esc(why)}.</p>"
    out = (f"<p>Evaluation inputs in training records, tested for {esc(TESTED)}; not for paraphrase: "
           f"{sum(p['dropped'] for p in dropped):,} records were left out, {sum(p['records'] for p in left):,} are still "
           "there.</p>")  # fmt: skip
    share = {
        (p["train"], p["evaluation"]): f"{p['share']:.1%}" for p in audit["leaks"].get("pairs", ())
    }
    rows = [[p["train"], p["evaluation"], p["how"], p["dropped"], share.get((p["train"], p["evaluation"]), "")]
            for p in dropped]  # fmt: skip
    head = ["training task", "evaluation task", "how", "left out", "share of the task (pair)"]
    return out + (table(head, rows, {3, 4}) if rows else "")


def _easy(audit: dict) -> str:
    def against(v):
        return "below chance" if v < 0 else shown(v)

    rows = [[t, against(b["commonest"]), against(b["neighbour"]), b["examples"], b["easy"]]
            for t, b in audit["baselines"].items()]  # fmt: skip
    if not rows:
        return ""
    most = max(b["training_examples"] for b in audit["baselines"].values())
    each = table(["task", "commonest answer", "nearest neighbour", "n", "easy"], rows, {1, 2, 3})
    return (f"<p>Answers without a model: {len(audit['easy'])} of {len(rows)} tasks are easy (the commonest training "
            f"answer, or that of the nearest of the first {most:,} training examples, scores above 0.5 corrected).</p>"
            f"<details><summary>baselines by task</summary>{each}</details>")  # fmt: skip


def _notes(audit: dict) -> str:
    lines = [f"warning: {x}" for x in audit["warnings"]] + [f"error: {x}" for x in audit["errors"]]
    return "<ul>" + "".join(f"<li>{esc(x)}</li>" for x in lines) + "</ul>" if lines else ""


def _holdout(found: dict) -> str:
    return (
        table(["task", "why"], [[h["task"], h["reason"]] for h in found["holdout"]])
        if found["holdout"]
        else ""
    )


def _repeat(found: dict) -> str:
    settings = [[k, v["value"], v["from"]] for k, v in found["settings"].items()]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    notes = "".join(f"<p>changed on resume: {esc(n)}</p>" for n in found["notes"])
    v = found["vocabulary"]
    return (f"<pre>{esc(found['command'])}</pre><p>Code {esc(found['code'])}, data {esc(found['data_hash'])}, "
            f"vocabulary {esc(v['hash'])} ({v['size']:,} pieces). {esc(versions)}.</p>{notes}<details><summary>"
            "settings that differ from their defaults</summary>"
            f"{table(['setting', 'value', 'from'], settings)}</details>")  # fmt: skip
