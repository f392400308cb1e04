# SPDX-License-Identifier: Apache-2.0
"""Kinds of copies for the leak test: evaluation inputs in three languages, and records that hold a
copy of one.

A record is a row for a task of the family that its keys name: {"prompt", "answer"}, {"context",
"question", "answer"}, {"messages"} or {"text"}.
"""

import html
import json
import random
import unicodedata
from collections.abc import Callable
from urllib.parse import quote

LANGUAGES = ("en", "ru", "zh")
SIZES = ("short", "long")
WORDS = {
    "en": {
        "who": "teacher farmer painter pilot nurse baker sailor doctor driver gardener writer singer".split(),
        "how": "quietly slowly rarely often gladly bravely".split(),
        "did": "repaired counted borrowed measured painted carried followed cleaned ordered buried".split(),
        "what": "lantern bicycle carpet violin bridge cabbage ladder suitcase curtain engine saddle mirror".split(),
        "like": "golden broken heavy ancient purple narrow wooden hollow".split(),
        "where": "harbour orchard library station village museum kitchen meadow".split(),
    },
    "ru": {
        "who": "учитель фермер художник лётчик повар пекарь моряк доктор водитель садовник писатель певец".split(),
        "how": "тихо медленно редко часто охотно смело".split(),
        "did": "починил сосчитал одолжил измерил покрасил отнёс вымыл заказал спрятал заметил".split(),
        "what": "фонарь велосипед ковёр мост кочан чемодан занавес двигатель ящик камень рояль шкаф".split(),
        "like": "золотой сломанный тяжёлый древний узкий деревянный пустой пёстрый".split(),
        "where": "гавани саду библиотеке деревне кухне роще крепости долине".split(),
    },
    "zh": {
        "who": "老师 农民 画家 飞行员 护士 面包师 水手 医生 司机 园丁 作家 歌手".split(),
        "how": "悄悄地 慢慢地 很少 经常 高兴地 勇敢地".split(),
        "did": "修理了 数了 借走了 测量了 粉刷了 搬走了 洗了 订购了 埋藏了 发现了".split(),
        "what": "灯笼 自行车 地毯 小提琴 大桥 白菜 梯子 箱子 窗帘 发动机 马鞍 镜子".split(),
        "like": "金色的 破旧的 沉重的 古老的 紫色的 狭窄的 木制的 空心的".split(),
        "where": "港口 果园 图书馆 车站 村庄 博物馆 厨房 草地".split(),
    },
}
# (short, one sentence of a long input)
FORMS = {
    "en": (
        "Why did the {like} {who} have a {what} at the {where}?",
        "The {like} {who} {how} {did} a {what} in the {where}.",
    ),
    "ru": (
        "Зачем {like} {who} взял {what} в {where}?",
        "Этот {like} {who} {how} {did} {what} в {where}.",
    ),
    "zh": (
        "为什么{like}{who}在{where}有{what}？",
        "那位{who}{how}在{where}{did}一个{like}{what}。",
    ),
}
ASK = {
    "en": "Who was seen there first?",
    "ru": "Кто был замечен там первым?",
    "zh": "谁最先在那里被看见？",
}
WRAPPED = [
    "Question: {x}\nAnswer:", "Q: {x}\nA:", "{x}\n\nYour answer:", "Please answer: {x}", "Here is a task.\n{x}\nSolve it.",
    "Think first.\n\n{x}", "Someone asks: \"{x}\" What do you say?", "<question>{x}</question>", "### Input\n{x}\n### Output",
    "I was asked this: {x} I did not know it.", "Answer in a word. {x}", "{x} (Reply briefly.)", "Quiz time! {x} Go!",
]  # fmt: skip
FILLER = {
    "en": "Rain fell all morning and the shops stayed shut. Nobody minded much, for the fair had ended the day before.",
    "ru": "Всё утро шёл дождь, и лавки были закрыты. Никто не жалел, ведь ярмарка кончилась накануне.",
    "zh": "整个上午都在下雨，商店都关着门。没有人在意，因为集市前一天已经结束了。",
}
OPENING = {
    "en": "Read this with care.",
    "ru": "Прочтите это внимательно.",
    "zh": "请仔细阅读以下内容。",
}
LATIN, CYRILLIC = "aceopxyiABCEHKMOPTXY", "асеорхуіАВСЕНКМОРТХУ"
RADICALS = {"大": "⼤", "一": "⼀", "老": "⽼", "金": "⾦", "木": "⽊", "马": "⻢", "白": "⽩", "小": "⼩", "自": "⾃", "行": "⾏", "里": "⾥", "車": "⾞", "土": "⼟", "生": "⽣", "高": "⾼"}  # fmt: skip


def sentence(language: str, draw: random.Random, form: str) -> str:
    text = form.format(**{k: draw.choice(v) for k, v in WORDS[language].items()})
    return text[0].upper() + text[1:]


def inputs(language: str, size: str, count: int, seed: int = 0) -> list[str]:
    """Different questions of 8 or so words, or of three sentences and a question."""
    draw = random.Random(f"{language}/{size}/{seed}")
    short, long = FORMS[language]
    out: dict[str, None] = {}
    while len(out) < count:
        if size == "short":
            out[sentence(language, draw, short)] = None
        else:
            space = "" if language == "zh" else " "
            out[
                space.join([*(sentence(language, draw, long) for _ in range(3)), ASK[language]])
            ] = None
    return list(out)


def halves(text: str, language: str) -> tuple[str, str]:
    if language == "zh":
        return text[: len(text) // 2], text[len(text) // 2 :]
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


# ---- edits of a text: (text, language, draw) -> text
# ------------------------------------------------


def _full_width(text: str, *_) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _spaced(text: str, language: str, draw: random.Random) -> str:
    if language == "zh":
        return " ".join(text)
    return draw.choice(["  ", "\n", " \t ", "\u00a0"]).join(text.split())


def _no_marks(text: str, *_) -> str:
    return "".join(c for c in text if unicodedata.category(c)[0] != "P")


def _more_marks(text: str, language: str, draw: random.Random) -> str:
    return "«" + text.replace(" ", " - ", 1).rstrip("?？.。") + "…»!"


def _quoted(text: str, language: str, draw: random.Random) -> str:
    left, right = draw.choice(["“”", "„“", "‘’", "「」", "''"])
    a, b = halves(text, language)
    return f"{left}{a}{right} {draw.choice('-–—―')} {b}"


def _zero_width(text: str, language: str, draw: random.Random) -> str:
    return "".join(
        c + draw.choice(["", "", "\u200b", "\u200d", "\ufeff", "\u2060", "\u00ad", "\ufe0f"])
        for c in text
    )


def _alike(text: str, language: str, *_) -> str:
    table = {
        "en": dict(zip(LATIN, CYRILLIC, strict=True)),
        "ru": dict(zip(CYRILLIC, LATIN, strict=True)),
        "zh": RADICALS,
    }[language]
    return "".join(table.get(c, c) for c in text)


EDITS: dict[str, Callable] = {
    "verbatim": lambda x, *_: x,
    "upper case": lambda x, *_: x.upper(),
    "spaces": _spaced,
    "decomposed": lambda x, *_: unicodedata.normalize("NFD", x),
    "full width": _full_width,
    "no punctuation": _no_marks,
    "more punctuation": _more_marks,
    "quotes and dashes": _quoted,
    "zero width": _zero_width,
    "look-alike letters": _alike,
}


def _one_word(text: str, language: str, draw: random.Random) -> str:
    if language == "zh":
        i = draw.randrange(len(text))
        return text[:i] + "他" + text[i + 1 :]
    words = text.split()
    words[draw.randrange(len(words))] = {"en": "somebody", "ru": "кто-то"}[language]
    return " ".join(words)


def _in_word_breaks(text: str, language: str, draw: random.Random) -> str:
    return "".join(c + ("-\n" if c.isalpha() and draw.random() < 0.1 else "") for c in text)


def _entities(text: str, *_) -> str:
    return "".join(
        f"&#{ord(c)};" if ord(c) > 127 or c in "?.'" else c for c in html.escape(text)
    ).replace(" ", "&nbsp;")


def _emphasis(text: str, language: str, draw: random.Random) -> str:
    if language == "zh":
        return "**" + text[:3] + "**" + text[3:]
    return " ".join(
        f"**{w}**" if draw.random() < 0.3 else f"_{w}_" if draw.random() < 0.2 else w
        for w in text.split()
    )


def _numbered(text: str, language: str, draw: random.Random) -> str:
    a, b = halves(text, language)
    return f"1. {a}\n2. {b}"


def _marked(text: str, language: str, draw: random.Random) -> str:
    return "".join(
        c + (draw.choice("\u0301\u0323\u0336\u20dd") if c.isalpha() else "") for c in text
    )


def _reordered(text: str, language: str, draw: random.Random) -> str:
    mark = "。" if language == "zh" else ". "
    return mark.join(reversed(text.split(mark)))


def _typos(text: str, language: str, draw: random.Random) -> str:
    i = draw.randrange(2, len(text) - 2)
    return text[: i - 1] + text[i] + text[i - 1] + text[i + 1 :]


def _composed(n: int) -> Callable:
    def edit(text: str, language: str, draw: random.Random) -> str:
        for name in draw.sample([k for k in EDITS if k != "verbatim"], n):
            text = EDITS[name](text, language, draw)
        return text

    return edit


MEASURED: dict[str, Callable] = {
    "two edits": _composed(2),
    "three edits": _composed(3),
    "a word changed": _one_word,
    "two letters swapped": _typos,
    "its first 70 %": lambda x, *_: x[: len(x) * 7 // 10],
    "breaks in words": _in_word_breaks,
    "no spaces": lambda x, *_: x.replace(" ", ""),
    "HTML entities": _entities,
    "URL-encoded": lambda x, *_: quote(x),
    "JSON escapes": lambda x, *_: json.dumps(x),
    "markdown": _emphasis,
    "numbered parts": _numbered,
    "combining marks": _marked,
    "sentences reordered": _reordered,
    "backwards": lambda x, *_: x[::-1],
}


# ---- where a copy stands: (text, language, draw) -> records
# ------------------------------------------


def plain(prompt: str, answer: str = "none of them") -> dict:
    return {"prompt": prompt, "answer": answer}


def _chat(*turns: str) -> dict:
    return {
        "messages": [
            {"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)
        ]
    }


def _exemplar(x: str, language: str, draw: random.Random) -> list[dict]:
    others = inputs(language, "short", 2, draw.randrange(10**6))
    return [plain("\n\n".join(f"Input: {t}\nOutput: {a}" for t, a in ((others[0], "one"), (x, "two"))) + f"\n\nInput: {others[1]}\nOutput:")]  # fmt: skip


def _fields(x: str, language: str, draw: random.Random) -> list[dict]:
    a, b = halves(x, language)
    return [{"context": a, "question": b, "answer": "none of them"}]


def _lines(x: str, language: str, draw: random.Random) -> list[dict]:
    a, b = halves(x, language)
    return [plain(f"Context: {a}\nQuestion: {b}\nAnswer:")]


def _document(x: str, language: str, *_) -> list[dict]:
    return [{"text": f"{FILLER[language]} {x} {FILLER[language]}"}]


def _near(language: str, draw: random.Random) -> str:
    return inputs(language, "short", 1, draw.randrange(10**6))[0]


PLACES: dict[str, Callable] = {
    "wrapped": lambda x, language, draw: [plain(draw.choice(WRAPPED).format(x=x))],
    "in 13 wordings": lambda x, *_: [plain(w.format(x=x)) for w in WRAPPED],
    "behind a sentence": lambda x, language, *_: [plain(f"{OPENING[language]} {x}")],
    "in two fields": _fields,
    "in two lines": _lines,
    "in an exemplar": _exemplar,
    "in a document": _document,
    "in the target": lambda x, language, draw: [plain(_near(language, draw), x)],
    "first turn": lambda x, language, draw: [_chat(x, "I see.", _near(language, draw), "No.")],
    "an assistant's turn": lambda x, language, draw: [
        _chat(_near(language, draw), x, _near(language, draw), "No.")
    ],
    "last user turn": lambda x, language, draw: [_chat(_near(language, draw), "I see.", x, "No.")],
    "last turn": lambda x, language, draw: [
        _chat(_near(language, draw), "I see.", _near(language, draw), x)
    ],
}


def records(kind: str, x: str, language: str, draw: random.Random) -> list[dict]:
    """The records of a kind that hold a copy of x."""
    if kind in PLACES:
        return PLACES[kind](x, language, draw)
    return [plain({**EDITS, **MEASURED}[kind](x, language, draw))]
