# SPDX-License-Identifier: Apache-2.0
"""What is read off a program's text: how often its parts run, what they send, what is assumed."""

import pytest

from itx.errors import RunFailed
from itx.plan import hlo, printed

HLO = """\
HloModule m

%fused (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  ROOT %all-gather.1 = f32[64]{0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

%body (t: (u32[], f32[8])) -> (u32[], f32[8]) {
  %t = (u32[], f32[8]{0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%t), index=0
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%i, %two)
  %f = f32[64]{0} fusion(%x), kind=kLoop, calls=%fused
  %sent = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %got = f32[8]{0} collective-permute-done(%sent)
  ROOT %out = (u32[], f32[8]{0}) tuple(%next, %got)
}

%condition (t: (u32[], f32[8])) -> pred[] {
  %t = (u32[], f32[8]{0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%t), index=0
  %end = u32[]{:T(128)} constant(10)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %zero = u32[]{:T(128)} constant(0)
  %begin = (u32[], f32[8]{0}) tuple(%zero, %a)
  %loop = (u32[], f32[8]{0}) while(%begin), condition=%condition, body=%body
  %y = f32[8]{0} get-tuple-element(%loop), index=1
  ROOT %sum = f32[8]{0} all-reduce(%y), channel_id=9, replica_groups=mesh['replica'=2,'fsdp'=4] {'replica'}, to_apply=%add
}
"""


def test_collectives_are_counted_as_often_as_they_run_and_by_the_ring():
    module = hlo.parse(HLO)
    assert module.runs["body"] == 5  # 0, 2, 4, 6, 8
    found = {c.kind: c for c in hlo.collectives(module, devices=8, slices=2)}
    assert found["all-gather"].moved == 5 * 64 * 4 * 7 / 8 and found["all-gather"].crosses
    assert found["collective-permute"].moved == 5 * 8 * 4
    assert not found["collective-permute"].crosses
    assert found["all-reduce"].moved == 2 * 8 * 4 * 1 / 2 and found["all-reduce"].crosses
    assert {c.crosses for c in hlo.collectives(module, devices=8, slices=1)} == {False}


GROUPS = "channel_id=1, replica_groups={{0,1,2,3}}"
# (instruction, bytes of the whole arrays, bytes that a chip sends)
STARTS = [
    ("f32[64]{0} all-reduce-start(%a)", 256, 2 * 256 * 3 / 4),
    ("(f32[64]{0}, bf16[32]{0}) all-reduce-start(%a, %b)", 320, 2 * 320 * 3 / 4),
    ("(f32[16]{0}, f32[64]{0}) all-gather-start(%a)", 256, 256 * 3 / 4),
    (
        "((f32[16]{0}, bf16[8]{0}), (f32[64]{0}, bf16[32]{0})) all-gather-start(%a, %b)",
        *(320, 320 * 3 / 4),
    ),
    ("((f32[64]{0}), f32[16]{0}, s32[]) reduce-scatter-start(%a)", 256, 256 * 3 / 4),
    (
        "((f32[64]{0}, f32[32]{0}), (f32[16]{0}, f32[8]{0})) reduce-scatter-start(%a, %b)",
        *(384, 384 * 3 / 4),
    ),
    ("((f32[64]{0}), f32[64]{0}) all-to-all-start(%a)", 256, 256 * 3 / 4),
    ("(f32[64]{0}, f32[64]{0}, u32[], u32[]) collective-permute-start(%a)", 256, 256),
]
PLAIN = [
    ("(f32[64]{0}, bf16[32]{0}) all-reduce(%a, %b)", 320, 2 * 320 * 3 / 4),
    ("(f32[64]{0}, bf16[32]{0}) all-gather(%a, %b)", 320, 320 * 3 / 4),
    ("f32[16]{0} reduce-scatter(%a)", 256, 256 * 3 / 4),
]


def module_of(*instructions: str) -> hlo.Module:
    lines = [f"  %x.{n} = {line}" for n, line in enumerate(instructions)]
    return hlo.parse("\n".join(["ENTRY %main (a: f32[8]) -> f32[8] {", *lines, "}"]))


@pytest.mark.parametrize(("instruction", "size", "moved"), STARTS + PLAIN)
def test_what_a_collective_of_each_kind_sends(instruction, size, moved):
    """Of an asynchronous one the start's type has operands and results, of an all-reduce's the
    results alone."""
    (found,) = hlo.collectives(module_of(f"{instruction}, {GROUPS}"), devices=4)
    assert (found.size, found.moved, found.group) == (size, moved, 4)


def test_an_asynchronous_collective_of_an_unknown_form_is_no_number():
    module = module_of(f"f32[64]{{0}} all-gather-start(%a), {GROUPS}")
    with pytest.raises(RunFailed, match="all-gather-start of 1 arrays"):
        hlo.collectives(module, devices=4)


@pytest.mark.parametrize(
    ("before", "after", "assumed"),
    [
        ("", "", []),
        ("u32[]{:T(128)} constant(10)", "u32[]{:T(128)} get-tuple-element(%t), index=1", [3]),
        ("add(%i, %two)", "multiply(%i, %two)", [10]),
        ("add(%i, %two)", "add(%i, %i)", [10]),
    ],
)
def test_loops_of_which_the_text_does_not_tell_how_often_are_counted(before, after, assumed):
    module = hlo.parse(HLO.replace(before, after) if before else HLO, trips=3)
    assert module.assumed_loops == assumed
    assert module.runs["body"] == (assumed or [5])[0]


@pytest.mark.parametrize(
    ("groups", "assumed"),
    [("{{0,1,2,3}}", False), ("{}", False), ("[1,4]<=[4]", False), ("V3@9", True)],
)
def test_groups_that_cannot_be_read_are_counted(groups, assumed):
    module = module_of(f"f32[64]{{0}} all-reduce(%a), replica_groups={groups}, to_apply=%add")
    (found,) = hlo.collectives(module, devices=4)
    assert (found.group, found.assumed) == (4, assumed)


def test_what_is_assumed_is_printed():
    none = {"loops": [], "groups": 0}
    assert not printed.assumed_line({"program": "train", "assumed": none})
    some = {"loops": [16, 1], "groups": 1}
    line = printed.assumed_line({"program": "decode", "assumed": some})
    assert "2 loop(s) count 16, 1 run(s)" in line and "1 collective(s)" in line


def test_a_type_of_unknown_size_is_no_number():
    assert hlo.size_of("(s4[3]{0}, token[], c128[2])") == 2 + 32
    with pytest.raises(RunFailed, match=r"f6e3m2\[8\]"):
        hlo.size_of("(f32[2], f6e3m2[8]{0})")


def test_bytes_of_a_type_by_memory():
    type = "(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f32[2]{0}, /*index=2*/pred[3])"
    assert hlo.size_of(type) == 64 + 8 + 3
    assert (hlo.size_of(type, 0), hlo.size_of(type, 1)) == (11, 64)
