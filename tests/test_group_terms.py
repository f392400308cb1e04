# SPDX-License-Identifier: Apache-2.0
"""Words for groups of people: found whole, swapped one for one."""

from itx import group_terms
from itx.group_terms import GROUPS


def swapped(written: str) -> dict[tuple[str, str], str]:
    return {(g.name, o.name): prompt for g, o, prompt in group_terms.swaps(written)}


def test_groups_of_gender_have_a_counterpart_for_each_term():
    women, men = (next(g for g in GROUPS if g.name == n) for n in ("women", "men"))
    assert len(women.terms) == len(men.terms) == len(set(women.terms))
    assert dict(zip(women.terms, men.terms, strict=True))["тётя"] == "дядя"
    for g in GROUPS:
        assert all(t == t.casefold() for t in g.terms)


def test_a_swap_changes_the_terms_alone_and_keeps_their_case():
    assert swapped("She told the WAITRESS; sheet, another.")["women", "men"] == (
        "He told the WAITER; sheet, another."
    )
    assert swapped("Его мать — актриса? Она дома.")["women", "men"].startswith("Его отец")
    back = swapped(swapped("The mother and her sister")["women", "men"])["men", "women"]
    assert back == "The mother and her sister"


def test_what_names_both_groups_or_none_is_not_swapped():
    assert not swapped("She saw him and the king") and not swapped("Nobody is here: theology")
    assert ("women", "men") not in swapped("Mary asked her father")
    assert ("women's names", "men's names") in swapped("Mary asked her father")


def test_names_are_found_in_what_was_normalised():
    named = {g.name for g in group_terms.named("the russian grandmother")}
    assert {"Russians", "women", "old people"} <= named
    assert group_terms.names_any("A Muslim", [g for g in GROUPS if g.name == "Muslims"])
