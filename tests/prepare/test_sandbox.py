# SPDX-License-Identifier: Apache-2.0
"""A chat template is a stranger's program: what it does is bounded, and what templates of today do
is the same as ever."""

import json
import resource
import threading
import time

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from itx.errors import UserError
from itx.text_format import chat, pieces, sandbox
from tests.prepare.test_chat import CHATML, LATE, THINKS
from tests.prepare.test_turns import FULL, QWEN3, TOOLS

TALK = {"messages": [{"role": "user", "content": "два?"}, {"role": "assistant", "content": "2"}]}
DOUBLES = "{{% set ns = namespace(x={}, y={}) %}}{{% for i in range(99) %}}{{% set ns.x = {} %}}{{% set ns.y = {} %}}{{% endfor %}}{{{{ {} }}}}"
ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9) %}{% endfor %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "tests": "{{ range(99999) | select('in', range(99999) | list) | list }}",
    "scans": "{% for a in range(99999) %}{% if 'b' in messages[0].content * 9999 %}{% endif %}{% endfor %}",
    "nested lists": DOUBLES.format("[1]", "1", "[ns.x, ns.x]", "1", "ns.x | tojson | length"),
}
HUGE = {
    "a product": "{{ 'a' * 10**11 }}", "a list": "{{ [1] * 10**10 }}", "a power": "{{ 10**(10**10) }}",
    "squares": DOUBLES.format("3", "1", "ns.x * ns.x", "1", "1"), "widths": "{{ '%099999999999d' % 1 }}",
    "stars": "{{ '%*d' % (10**11, 1) }}", "fields": "{{ '{:{w}}'.format(1, w=10**11) }}",
    "center": "{{ 'a' | center(10**11) }}", "ljust": "{{ 'a'.ljust(10**11) }}", "zfill": "{{ 'a'.zfill(10**11) }}",
    "concatenation": DOUBLES.format("'a'", "1", "ns.x ~ ns.x", "1", "1"), "sums": DOUBLES.format("'a'", "1", "ns.x + ns.x", "1", "1"),
    "replace": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}", "join": "{{ ('a' * 10**6) | join('b' * 10**6) }}",
    "indent": "{{ ('\n' * 10**6) | indent(10**6) }}", "json": "{{ [[1]] | tojson(indent=10**10) }}",
    "tabs": "{{ ('\t' * 10**6).expandtabs(10**6) }}", "translate": "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
    "output": "{% for a in range(99999) %}{% for m in messages %}" + "text " * 9999 + "{% endfor %}{% endfor %}",
    "a block": "{% set x %}{% for a in range(99999) %}{% for m in messages %}" + "text " * 9999 + "{% endfor %}{% endfor %}{% endset %}",
}  # fmt: skip


@pytest.mark.parametrize("what", [*ENDLESS, *HUGE])
def test_what_a_template_may_do_is_bounded(what):
    """Each in a thread, where no signal reaches it."""
    found = []

    def render():
        began = time.thread_time()
        try:
            chat.answers({**ENDLESS, **HUGE}[what] + CHATML, TALK, "task 'talk', example 1")
        except UserError as e:
            found.append((str(e), time.thread_time() - began))

    thread = threading.Thread(target=render, daemon=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    thread.start()
    thread.join(timeout=20)
    assert found, f"{what}: no end within 20 s"
    ((said, seconds),) = found
    assert (
        said.startswith(
            "task 'talk', example 1: data.chat_template: it exceeds what a rendering may do"
        )
        and seconds < 10
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_a_bound_does_not_depend_on_time(monkeypatch):
    """The same conversation passes or fails on any machine."""
    loops = "{% for a in range(9999) %}{% for b in range(N) %}{% endfor %}{% endfor %}" + CHATML
    most = []
    for _ in range(2):
        passes = []
        for n in range(10, 100, 10):
            try:
                chat.answers(loops.replace("N", str(n)), TALK, "")
                passes.append(n)
            except UserError:
                break
        most.append(passes)
    assert most[0] == most[1] and 0 < len(most[0]) < 9


@pytest.mark.parametrize(
    "template",
    [
        "{{ " * 3000,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    ],
)
def test_a_template_that_is_no_program_is_a_line(template):
    with pytest.raises(UserError, match="data.chat_template"):
        chat.answers(template, TALK, "here")


# What templates of today do: namespaces, reversed slices, macros with defaults, methods of texts,
# loop controls, JSON
MANY = """{%- macro turn(role, text='') -%}<|{{ role }}|>{{ text | trim }}<|end|>{%- endmacro -%}
{%- if messages[0]['role'] == 'system' %}{%- set first = messages[0]['content'] | trim %}{% set rest = messages[1:] %}
{%- else %}{% set first = '' %}{% set rest = messages %}{% endif -%}
{%- set ns = namespace(query=true, at=messages | length - 1) -%}
{%- for m in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}
{%- if ns.query and m.role == "user" and not (m.content.startswith('<r>') and m.content.endswith('</r>')) %}{% set ns.query = false %}{% set ns.at = index %}{% endif %}{% endfor -%}
{%- if tools is not none and tools %}{{ tools | map(attribute='function.name') | join(', ') }}{% for t in tools %}
{{ t | tojson(indent=4) }}{% endfor %}{% endif %}{{ first }}
{%- for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) and m.role not in ['tool', 'system'] %}{{ '!' }}{% endif -%}
{%- if m.content is string and m.content is not none %}{% set content = m.content %}{% else %}{% set content = '' %}{% endif -%}
{%- if m.role == 'assistant' %}{% set thought = '' %}{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}
{%- elif '</think>' in content %}{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif -%}
{{ '<think>' + thought.strip('\\n') + '</think>' if loop.last or loop.index0 > ns.at else '' }}
{%- for call in m.tool_calls or [] %}{% if call.function %}{% set call = call.function %}{% endif %}
{%- for key, value in call.arguments | items %}{{ key ~ '=' ~ (value | tojson if value is mapping or value is iterable and value is not string else value | string) }}{% endfor %}{% endfor -%}
{%- elif m.role == 'tool' %}{% if loop.previtem and loop.previtem.role == 'tool' %}{% continue %}{% endif %}{{ '%s: %s' % (m.name | default('?'), content | upper | replace('A', 'B')) }}
{%- endif %}{{ turn(m.role | title, content) }}{% if loop.nextitem is undefined and false %}{% break %}{% endif %}
{%- endfor %}{{ bos_token }}{% if add_generation_prompt %}{{ '<|' + 'assistant' + '|>' }}{% endif %}"""


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        THINKS,
        LATE,
        FULL,
        chat.PLAIN,
        MANY,
        (QWEN3.parent / "chat_template.jinja").read_text(),
    ],
)
def test_templates_of_today_are_rendered_as_jinja_does(template):
    """Beside an environment as transformers sets it up."""
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    plain.filters["tojson"] = lambda x, indent=None: json.dumps(
        x, ensure_ascii=False, indent=indent
    )
    call = {
        "type": "function",
        "function": {"name": "f", "arguments": {"город": "Омск", "n": 3, "deep": {"a": [1, "б"]}}},
    }
    talk = [{"role": "system", "content": " Be <b>brief</b>. "}, {"role": "user", "content": "天气?"},
            {"role": "assistant", "content": "<think>\n Hm\n</think>\n\n Wait ", "tool_calls": [call]},
            {"role": "tool", "content": "a -3", "name": "f"}, {"role": "tool", "content": "b"},
            {"role": "assistant", "content": "−3", "reasoning_content": "\nSo.\n"}]  # fmt: skip
    several = 0
    for n in range(len(talk)):
        for tools in (None, TOOLS):
            values = {"messages": talk[: n + 1] * (1 + 5 * (n == 1)), "tools": tools}
            for prompt in (False, True):
                given = {
                    "messages": values["messages"],
                    "tools": tools,
                    "add_generation_prompt": prompt,
                    "bos_token": "",
                }
                wanted = plain.from_string(template).render(**given, eos_token=pieces.END)
                assert chat.written(template, values, len(values["messages"]), prompt, "") == wanted
                several += 1
    assert several == 24


# What Jinja can do beside, which templates may use
FEATURES = [
    "{% for m in messages | rejectattr('role','equalto','tool') | selectattr('tool_calls','undefined') %}{{ m.role }}{% endfor %}",
    "{{ messages | map(attribute='role') | unique | join(',') }}{{ messages|groupby('role')|length }}{{ d | dictsort }}{{ [3,1,2]|sort(reverse=true) }}",
    "{% for a in [1,2,3]|batch(2, 0) %}{{ a }}{{ loop.cycle('x','y') }}{{ loop.changed(a) }}{{ loop.revindex }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% macro w(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call w(3) %}hi{% endcall %}{% filter upper %}abc{% endfilter %}",
    "{% set x %}  a b {{ messages[0].content }} {% endset %}{{ x | trim | title }}{{ x|wordcount }}{{ x|replace(' ','_',1) }}",
    "{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ messages[0].get('zz','q') }}{{ messages[0]['content'][1:] }}{{ messages[1:]|length }}{{ messages[-1].role }}",
    "{% for x in [[1,[2,[]]]] recursive %}{{ x[0] if x is sequence }}{% if x is sequence and x[1:] %}{{ loop(x[1:]) }}{% endif %}{% endfor %}",
    "{{ '%s-%d' % ('a', 3) }}{{ '{}{}'.format(1,'b') }}{{ 'abc'|format }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ 1 ~ 'a' ~ none }}{{ [1]+[2] }}{{ (1,2)+(3,) }}{{ 'ab' * 3 }}{{ -3 }}{{ 1/2 }}",
    "{{ undefinedthing }}{{ undefinedthing is defined }}{{ undefinedthing|default('x') }}{{ messages[9] is defined }}{{ none is none }}{{ (undefinedthing or 'k') }}{% if undefinedthing == 'a' %}{% endif %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'abc' if c != 'b' %}{{ loop.index }}{{ c }}{% endfor %}",
    "{{ d|items|list }}{{ d|string }}{{ d|tojson }}{{ [1,2]|first }}{{ 'abc'|last }}{{ 'abc'|reverse }}{{ [1,2]|sum }}{{ ['a','b']|map('upper')|list }}{{ 3.7|round|int }}{{ '5'|int + 1 }}",
    "{{ ns }}{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ dict(a=1).a }}{{ range(3)|list }}{% block b %}x{% endblock %}{{ self.b() }}",
    "{% for a in (1,2,3) %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{% if a > 2 %}{% break %}{% endif %}{% endfor %}{{ cycler('a','b').next() }}{% set j = joiner(',') %}{{ j() }}{{ j() }}",
    "{{ '<b>'|e }}{{ '<b>'|safe }}{{ 'a\nb'|indent(2) }}{{ 'hello world'|truncate(5) }}{{ 'a b'|urlencode }}{{ 'x'|center(5) }}{{ 1 is odd }}{{ 'A' is upper }}{{ 3 is in [3] }}{{ 'abc'.split('b') }}{{ 'x y'.title() }}{{ 'abc'|length > 2 and 'q' not in 'abc' }}",
    "{% with a = 1 %}{{ a }}{% endwith %}{% raw %}{{ x }}{% endraw %}{# c #}{{ 'a' if true }}{{ '' if true else 'b' }}{{ not false }}{{ 1 < 2 < 3 }}{{ messages == messages }}",
]


@pytest.mark.parametrize("template", FEATURES, ids=range(len(FEATURES)))
def test_what_jinja_can_do_is_done_alike(template):
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    plain.filters["tojson"] = lambda x, indent=None: json.dumps(
        x, ensure_ascii=False, indent=indent
    )
    talk = [{"role": "user", "content": "héllo <x>"}, {"role": "assistant", "content": "b", "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "c"}]  # fmt: skip
    values = {"messages": talk, "d": {"b": 1, "a": [1, {"c": None}]}, "tools": None}
    with sandbox.budget(talk):
        assert sandbox.compiled(template).render(values) == plain.from_string(template).render(
            values
        )


def test_a_long_conversation_is_within_the_bound():
    """A thousand turns, of a word and of a page each."""
    for size in (1, 400):
        turns = [
            {"role": r, "content": "word " * size}
            for _ in range(500)
            for r in ("user", "assistant")
        ]
        for template in (MANY, FULL, chat.PLAIN):
            assert (
                chat.written(
                    template, {"messages": turns, "tools": TOOLS}, len(turns), True, ""
                ).count("word")
                == 1000 * size
            )
