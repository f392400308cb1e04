# SPDX-License-Identifier: Apache-2.0
"""The one form in which the leak test compares texts: what a copy keeps however it was typed,
cleaned or disguised.

    loose("«What’s 3−5?»  (Сat)")  ->  "whats 3- 5\\ncat"     "-" is the operator's sign here

Letters and digits count, and signs between numbers; everything else is a gap. Gaps are no part of
what is compared: "line break", "line-break" and "linebreak" are the same letters. They only say
where words begin (a space) and where a sentence, a label or a quotation may (a line break).
"""

import html
import re
import unicodedata
from urllib.parse import unquote

from itx.text import UNSPACED

LOOSE_VERSION = 3  # raise it when a change here alters a form: it is part of every cache key
# Letters that are drawn alike, as the Latin one; both sides are mapped, so that Russian still finds
# Russian. After casefold: a small letter is mapped as its capital looks too ("н" as H), for the
# case of a copy may be another.
_ALIKE = {
    letter: latin
    for letters, latins in (
        ("авеікмнорстухѕјһԁԛԝѵґгпьѡ", "abeikmhopctyxsjhdqwvrrnbw"),
        ("αβεζηικμνορτυχωγϲϳ", "abezhikmvoptuxwycj"),
        ("ոսօհցոԁɡɑıɩʏɴɪʀʙʜʟᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢꜱꜰ", "nuohgndgaiiynirbhlacdejkmoptuvwzsf"),
        # the simplified radicals that Unicode does not fold itself (it does Kangxi's)
        (
            "⻅⻆⻈⻉⻋⻓⻔⻗⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻧⻨⻩⻬⻮⻰⺟⺠⺩⺫⺬⺻⺼⻄",
            "见角讠贝车长门雨青韦页风飞食马骨鬼鱼鸟卤麦黄齐齿龙母民王目示聿月西",
        ),
    )
    for letter, latin in zip(letters, latins, strict=True)
}
# Greek capitals that do not look as their small letters do
_CAPITALS = {"\u039d": "n", "\u03a5": "y"}
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_SIGNS = dict(zip("-+*/=<>^", "\ue001\ue002\ue003\ue004\ue005\ue006\ue007\ue008", strict=True))
_OPERATORS = {"\u00d7": "*", "\u00f7": "/", "\u2044": "/"}
_BETWEEN_NUMBERS = "\ue000"  # "2 210" is not "22 10"
_IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u0640\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")
_IN_WORD = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_SIGN = re.compile(r"(?<=[0-9)])[ ]*([-+*/^=<>])[ ]*(?=[0-9(-])|(?<![\w.,)-])(-)(?=[0-9])")
_PAIR_OF_NUMBERS = re.compile(r"(?<=[0-9])(?=[ \n]+[0-9])")
_MARKED_NUMBER = re.compile("\\d\\s*[^\\w\\s]+\\s*\\d|[-\u2212\u2013]\\d")
_LINES, _SPACES = re.compile(" *\n[\n ]*"), re.compile("  +")
_UNSPACED = re.compile(f"[{UNSPACED}]")


class _Fold(dict):
    """Code point -> its form, worked out when first seen."""

    def __missing__(self, code: int) -> str:
        self[code] = made = _folded(chr(code))
        return made


def _folded(char: str) -> str:
    if char in _DASHES:
        return "-"
    if char in _CAPITALS:
        return _CAPITALS[char]
    if _IGNORED.match(char):
        return ""
    out = []
    for c in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold()):
        kind, order = unicodedata.category(c), unicodedata.combining(c)
        if c in _ALIKE:
            out.append(_ALIKE[c])
        elif kind == "Nd":
            out.append(str(unicodedata.digit(c)))
        elif kind[0] in "LN":
            out.append(c)
        # accents and vowel points may be left out; vowels and the signs of Indic scripts may not
        elif kind[0] == "M":
            out.append("" if order >= 200 or order == 1 or 10 <= order <= 35 or kind == "Me" else c)
        elif kind == "Zs":
            out.append(" ")
        elif kind != "Cf":
            out.append(_OPERATORS.get(c, c if c in "+*/=<>^,'.-_()" else "\n"))
    return "".join(out)


_FOLD = _Fold()
# what becomes of the ASCII characters of a folded text that are neither letters nor digits
_REST = {i: " " if chr(i) in " -_" else "\n" for i in range(128) if not chr(i).isalnum()}


def loose(text: str) -> str:
    """Words with a space between, and a line break where there was more than a space.

    >>> loose("Don’t “stop”:  Ｎow"), loose("Don't stop - now")
    ('dont\\nstop\\nnow', 'dont stop now')
    """
    if "&" in text and ";" in text:
        text = html.unescape(text)
    if "%" in text:
        text = _PERCENT.sub(lambda m: unquote(m[0], errors="replace"), text)
    if "\\" in text:
        text = _ESCAPED.sub(lambda m: chr(int(m[1], 16)), text)
        text = text.replace("\\n", "\n").replace("\\t", "\n")
    text = text.lower() if text.isascii() else text.replace("\u2019", "'").translate(_FOLD)
    if "'" in text:
        text = _IN_WORD.sub("", text)
    if any(map(text.__contains__, "0123456789")):
        text = _SIGN.sub(lambda m: _SIGNS[m[1] or m[2]] + " ", _THOUSANDS.sub("", text))
        text = _PAIR_OF_NUMBERS.sub(_BETWEEN_NUMBERS, text.translate(_REST))
    else:
        text = text.translate(_REST)
    return _SPACES.sub(" ", _LINES.sub("\n", text)).strip(" \n")


def without_marks(text: str) -> str | None:
    """The loose form of a text from which all marks were taken, where that joins or parts numbers;
    else None.

    >>> without_marks("from 3.50 on"), without_marks("from 2 on")
    ('from 350 on', None)
    """
    if not _MARKED_NUMBER.search(text):
        return None
    return loose("".join(c for c in text if unicodedata.category(c)[0] != "P"))


def size(form: str) -> tuple[int, int, bool]:
    """(words, letters, whether most letters are of a script without spaces) of a loose form; there
    each is a word.

    >>> size("two words"), size("東京 is")
    ((2, 8, False), (3, 4, False))
    """
    letters = len(form) - form.count(" ") - form.count("\n")
    if form.isascii():
        return len(form.split()), letters, False
    unspaced = len(_UNSPACED.findall(form))
    return len(_UNSPACED.sub(" ", form).split()) + unspaced, letters, 2 * unspaced > letters
