# SPDX-License-Identifier: Apache-2.0
"""`itx loop CONFIG --actions rates`: a search for rates of the mixture that score better on dev.

    LOOP/proxy-NAME/    a run of a share of the recipe's steps: the recipe as it is, with another
                        seed, without each source, with each candidate's rates
    LOOP/full-NAME/     a run of all its steps, of the recipe as it is and of the best candidate
    LOOP/better_rates.py the recipe with those rates, where full runs bear them out
    LOOP/rates.json     what each run said, and what was chosen

Everything but the last look at test is on dev questions of trained tasks. A candidate is taken for
full runs only if it beats the recipe as it is (itx/analysis/rates.py), and its rates are called
better only if it does so again there. Stages that are done are skipped: the same command goes on.
"""

import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from itx import begin, pretrained, storage
from itx.analysis import rates, rounds, words
from itx.analysis.rates import AGAIN, AS_IT_IS, PROPOSED, Factors
from itx.commands import stages
from itx.config import RunConfig
from itx.create import refined
from itx.errors import UserError
from itx.eval import tables
from itx.prepare import members
from itx.runs import RunFolder, read_lock
from itx.tasks import names
from itx.text import visible

KIND = "rates"
MIN_PROXY_STEPS = 2


def add_options(option: Callable) -> None:
    option(
        "--proxy_share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="rates: of the recipe's steps, that a proxy runs (default %(default)s)",
    )
    option(
        "--sources",
        type=int,
        default=8,
        metavar="N",
        help="rates: how many sources are left out by turns, those of the largest rates "
        "(default %(default)s)",
    )


def search(args: Namespace, folder: Path, own: list[str]) -> tuple[dict[str, Any], int]:
    """(facts, exit code).

    Args:
        own: the recipe and its overrides, as a command takes them.
    """
    config = _checked(args)
    proxy = _shortened(config, args.proxy_share)
    begin.check_same_run(_folder(folder, "proxy", AS_IT_IS), _config(args, proxy))
    facts: dict[str, Any] = {"folder": str(folder), "proxy_steps": _steps(config, args.proxy_share)}

    def run(name: str, factors: Factors, *more: str, kind: str = "proxy") -> Path:
        """A run that is done, whose rates are the recipe's times factors."""
        place = _folder(folder, kind, name).path
        changed = [rates.override(factors, config.data.rate_factors)] if factors else []
        changed += proxy if kind == "proxy" else []
        stages.train(folder, place, [*own, *changed, *more])
        return place

    first = run(AS_IT_IS, {})
    lock = read_lock(RunFolder(first))
    beside = members.beside(config.data)
    sources = rates.sources(lock, beside)
    candidates, same = rates.candidates(lock, beside)
    left = list(sources)[: args.sources]
    facts |= {"same": same, "sources_not_left_out": list(sources)[args.sources :]}
    again = run(AGAIN, {}, f"--train.seed={config.train.seed + 1}")
    facts["again"] = rates.beside(first, {AGAIN: again})[AGAIN]
    gone = {s: run(f"without {s}", rates.without(sources[s])) for s in left}
    facts["effects"] = rates.effects(first, gone, sources)
    if factors := rates.proposed(facts["effects"], sources):
        candidates[PROPOSED] = factors
    tried = {name: run(name, factors) for name, factors in candidates.items() if factors}
    compared = rates.beside(first, tried) if tried else {}
    facts["candidates"] = [
        {
            "candidate": name,
            "factors": own_factors,
            "score": rounds.score(tried.get(name, first)),
            "beside": compared.get(name),
        }
        for name, own_factors in candidates.items()
    ]
    facts |= _chosen(args, folder, facts["candidates"], config, run)
    storage.write_json(folder / "rates.json", storage.sealed(facts))
    _print(facts)
    return facts, 0


def _chosen(
    args: Namespace,
    folder: Path,
    candidates: list[dict[str, Any]],
    config: RunConfig,
    run: Callable[..., Path],
) -> dict[str, Any]:
    """The best candidate among those that beat the recipe as it is, borne out by full runs or
    not."""
    better = [c for c in candidates if c["beside"] and c["beside"]["verdict"] == "better"]
    if not better:
        return {"chosen": AS_IT_IS, "stopped": "no candidate is told to be better than the recipe"}
    best = max(better, key=lambda c: c["beside"]["difference"])
    name = best["candidate"]
    first, other = run(AS_IT_IS, {}, kind="full"), run(name, best["factors"], kind="full")
    full = rates.beside(first, {name: other})[name]
    found: dict[str, Any] = {"full": full, "best_of_proxies": name, "chosen": AS_IT_IS}
    if full["verdict"] == "better":
        found["chosen"] = name
        new = refined.changed_config(config, None, best["factors"])
        says = f"The rates {name!r} of `itx loop --actions rates`: rates.json says how they did."
        found["recipe"] = str(folder / "better_rates.py")
        with storage.whole_file(folder / "better_rates.py") as part:
            part.write_text(refined.recipe_text(new, says), encoding="utf-8")
        found["stopped"] = f"{name} is better in full runs too"
    else:
        found["stopped"] = f"{name} is better in proxies and {full['verdict']} in full runs"
    if not args.keep_test:
        found["test"] = {str(p): stages.test(folder, str(p)) for p in (first, other)}
    return found


def _checked(args: Namespace) -> RunConfig:
    """The recipe's config; UserError for what a search cannot do, before anything is begun."""
    if args.actions != KIND:
        raise UserError(f"--actions {args.actions}: rates are searched alone, in runs of their own")
    if args.control:
        raise UserError("--control is of rounds; a search for rates has its own: another seed")
    if not 0 < args.proxy_share <= 1:
        raise UserError(f"--proxy_share {args.proxy_share:g}: above 0 and at most 1")
    if args.sources < 0:
        raise UserError(f"--sources {args.sources}: 0 or above")
    config, _ = pretrained.load_recipe(args.config, [*args.overrides, *stages.OWN], args.quick)
    if config.data.phases:
        raise UserError(
            "data.phases: the rates of a mixture are searched that stay the same; leave phases out"
        )
    trained = {names.parse(m).task for m in members.members_of(config)}
    if len(trained - {names.parse(m).task for m in members.beside(config.data)}) < 2:
        raise UserError(
            f"data.mixture={config.data.mixture}: rates are of two or more tasks of our mixtures"
        )
    if _steps(config, args.proxy_share) < MIN_PROXY_STEPS:
        raise UserError(
            f"--proxy_share {args.proxy_share:g} of train.steps={config.train.steps} is less than "
            f"{MIN_PROXY_STEPS} steps"
        )
    return config


def _steps(config: RunConfig, share: float) -> int:
    return math.ceil(config.train.steps * share)


def _shortened(config: RunConfig, share: float) -> list[str]:
    """The settings of a proxy: fewer steps, with warmup and checkpoints in proportion."""
    steps = _steps(config, share)
    warmup = math.ceil(config.optim.warmup_steps * share)
    every = max(1, min(steps, math.ceil(config.train.checkpoint_every * share)))
    found = [f"--train.steps={steps}", f"--train.checkpoint_every={every}"]
    return [
        *found,
        f"--optim.warmup_steps={warmup}",
        f"--train.log_every={min(every, config.train.log_every)}",
    ]


def _config(args: Namespace, more: list[str]) -> RunConfig:
    return pretrained.load_recipe(args.config, [*args.overrides, *stages.OWN, *more], args.quick)[0]


def _folder(folder: Path, kind: str, name: str) -> RunFolder:
    return RunFolder(folder / f"{kind}-{quote(name, safe=' ').replace(' ', '_')}")


# ---- what it says


def _print(facts: dict[str, Any]) -> None:
    cells = [
        (
            c["candidate"],
            tables.shown(c["score"]),
            words.beside(c["beside"]) if c["beside"] else "-",
        )
        for c in facts["candidates"]
    ]
    title = f"rates, in runs of {facts['proxy_steps']} steps"
    head = ("rates", "dev", "beside the recipe as it is")
    tables.console().print(tables.table(title, head, cells, left=(head[0], head[2])))
    cells = [
        (e["source"], words.beside(e["others"]), words.beside(e["own"])) for e in facts["effects"]
    ]
    head = ("without", "the others' questions", "its own")
    tables.console().print(tables.table("each source left out", head, cells, left=head))
    print(visible(f"another seed alone: {words.beside(facts['again'])}"))
    for name, twin in facts["same"].items():
        print(visible(f"{name} is {twin} here"))
    if facts["sources_not_left_out"]:
        rest = ", ".join(facts["sources_not_left_out"])
        print(visible(f"not left out, --sources takes the largest: {rest}"))
    if "full" in facts:
        told = words.beside(facts["full"])
        print(visible(f"{facts['best_of_proxies']} in full runs: {told}"))
    print(visible(f"ended: {facts['stopped']}"))
    if "recipe" in facts:
        print(visible(f"recipe: {facts['recipe']}"))
    for run, of in facts.get("test", {}).items():
        if of:
            print(visible(f"test of {run}: {tables.shown(of['score'], of['score_interval'])}"))
