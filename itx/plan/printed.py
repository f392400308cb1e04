# SPDX-License-Identifier: Apache-2.0
"""A plan as a terminal shows it."""

from typing import Any

from itx.eval.tables import console, table
from itx.plan.chips import GB, GIB, Chip

MODEL = (
    "Seconds, hours and money are a model (itx/plan/costs.py), not a measurement: published rates "
    "of the chip, all roofs at once (at best) or one behind the other (in turn)."
)


def print_plan(facts: dict[str, Any]) -> None:
    """All programs, what the training step's memory holds, what it sends, what the run costs."""
    console().print(_programs(facts["programs"]))
    for own in facts["programs"]:
        if own["program"] == "train" and "parts" in own:
            console().print(_parts(own))
            if own["collectives"]:
                console().print(_collectives(own))
        if line := assumed_line(own):
            print(line)
    if any(not p["fits"] for p in facts["programs"] if p["program"] != "train"):
        print("evaluation asks fewer rows at once with a smaller --eval.batch_size")
    if cost := facts.get("cost"):
        for line in cost_lines(cost):
            print(line)
        print(MODEL)


def assumed_line(own: dict[str, Any]) -> str:
    """What the counts of a program take for granted since its text does not tell it; "" where it
    tells all."""
    assumed, told = own.get("assumed", {}), []
    if runs := assumed.get("loops"):
        told.append(f"{len(runs)} loop(s) count {', '.join(map(str, runs))} run(s)")
    if assumed.get("groups"):
        told.append(f"{assumed['groups']} collective(s) count as if between all devices")
    return f"{own['program']}: {', '.join(told)} (assumed: its text does not tell)" if told else ""


def _programs(programs: list[dict[str, Any]]):
    head = (
        "program",
        "batch",
        "GiB",
        "held besides",
        "of",
        "fits",
        "at best",
        "compiled in",
        "host",
    )
    rows = []
    for own in programs:
        fits = "yes" if own["fits"] else "no"
        if "peak_bytes" not in own:
            rows.append([own["program"], own.get("shape", ""), *["-"] * 3, fits, *["-"] * 3])
            continue
        rows.append(
            [
                own["program"],
                own["shape"],
                f"{own['peak_bytes'] / GIB:.2f}",
                f"{own['held_bytes'] / GIB:.2f}",
                f"{own['limit_bytes'] / GIB:.2f}",
                fits,
                f"{own['seconds']['at_best']:.3g} s",
                f"{own['compile_seconds']:.0f} s",
                f"{own['host_peak_bytes'] / GIB:.1f} GiB",
            ]
        )
    return table("HBM of a device at its peak, by the TPU's compiler", head, rows, head[:2], True)


def _parts(own: dict[str, Any]):
    rows = [(name, f"{size / GIB:.2f}") for name, size in own["parts"].items()]
    return table("The training step's peak", ("what", "GiB"), rows, ("what",))


def _collectives(own: dict[str, Any]):
    rows = [
        (
            c["kind"],
            c["network"],
            str(c["operations"]),
            f"{c['runs']:.0f}",
            f"{c['moved_bytes'] / GB:.2f}",
        )
        for c in own["collectives"]
    ]
    head = ("collective", "network", "operations", "runs", "GB sent")
    return table("What a device sends in a training step", head, rows, head[:2])


def cost_lines(cost: dict[str, Any]) -> list[str]:
    """Tokens an hour, hours, money."""

    def between(values: list[float], form: str) -> str:
        return f"{values[0]:{form}} at best, {values[1]:{form}} in turn"

    lines = [
        f"tokens an hour: {between(cost['tokens_per_hour'], ',.0f')}",
        f"hours for {cost['steps']:,} steps: {between(cost['hours'], '.3g')}; "
        f"hours of a chip: {between(cost['chip_hours'], '.3g')}",
    ]
    if cost["money"] is not None:
        price = f"{cost['price_per_chip_hour']:g} for a chip and hour"
        lines.append(f"money at {price}: {between(cost['money'], ',.2f')}")
    return lines


def print_changes(tried: list[dict[str, Any]], chip: Chip) -> None:
    """What was tried so that the training step fits: what fits first, by its order of trying."""
    order = {"fits": 0, "does not fit": 1}
    rows = [
        (
            " ".join(t["settings"]),
            t["verdict"],
            f"{t['peak_bytes'] / GIB:.2f}" if "peak_bytes" in t else "-",
            t["costs"],
        )
        for t in sorted(tried, key=lambda t: order.get(t["verdict"], 2))
    ]
    head = (
        "settings",
        "by the compiler",
        f"GiB of {chip.usable_bytes / GIB:.2f}",
        "what they cost",
    )
    left = (head[0], head[1], head[3])
    console().print(table("Changes of the training step", head, rows, left, True))
    if not any(t["verdict"] == "fits" for t in tried):
        print("none of them fits: take more chips, or chips with more memory")


MAX_SHOWN = 12  # layouts in the table; --json has all


def print_sweep(layouts: list[dict[str, Any]], chip: Chip) -> None:
    """The layouts of a sweep, the fastest by the model first."""
    rows = [
        (
            " ".join(own["settings"]),
            f"{own['seconds']['at_best']:.3g}",
            f"{own['seconds']['in_turn']:.3g}",
            f"{own['predicted_bytes'] / GIB:.2f}",
            f"{own['peak_bytes'] / GIB:.2f}" if "peak_bytes" in own else "-",
            own["verdict"],
        )
        for own in layouts[:MAX_SHOWN]
    ]
    head = (
        "settings",
        "s at best",
        "s in turn",
        f"GiB of {chip.usable_bytes / GIB:.2f}, predicted",
        "compiled",
        "by the compiler",
    )
    console().print(table("Layouts of the training step", head, rows, (head[0], head[5]), True))
    if len(layouts) > MAX_SHOWN:
        print(f"{len(layouts) - MAX_SHOWN} slower layouts are not shown; --json FILE has them")
    if best := next((own for own in layouts if own["verdict"] == "fits"), None):
        print(f"the fastest that was compiled and fits: {' '.join(best['settings'])}")
    else:
        print("no layout was compiled that fits")
    print(MODEL)


def print_prediction(predicted: dict[str, Any], chip: Chip) -> None:
    """What `--fast` says: each moment's parts, and their largest sum."""
    rows = [
        (moment, what, f"{size / GIB:.2f}")
        for moment, parts in predicted["moments"].items()
        for what, size in parts.items()
    ]
    rows.append(("always", "arguments (exact)", f"{predicted['argument_bytes'] / GIB:.2f}"))
    head = ("moment", "what", "GiB")
    console().print(table("The training step, predicted by shapes", head, rows, head[:2]))
    peak, most = predicted["peak_bytes"] / GIB, chip.usable_bytes / GIB
    verdict = "fits" if peak <= most else "does not fit"
    print(
        f"peak {peak:.2f} of {most:.2f} GiB, {verdict}: a prediction that was not compiled; its "
        "errors stand in itx/plan/README.md"
    )
