# SPDX-License-Identifier: Apache-2.0
"""Flaws planted in sound rows, for the table of what the filters find. No plant is made from a
filter's own patterns: texts are written by hand, cut and changed at drawn places, and numbers are
made by the rules of those who give them out."""

import random
import re
import string
from collections.abc import Callable

from itx.create.generators import CUT
from itx.create.row import Row

# Sentences of other languages, in an everyday tone
OTHERS = {
    "fr": "Nous avons pris le train de huit heures pour aller voir ma grand-mère. Il faisait froid et la gare était presque vide. Elle nous attendait avec une soupe chaude et du pain frais. Le soir, mon frère a réparé la vieille radio du salon.",
    "de": "Am Samstag haben wir den Keller aufgeräumt und alte Briefe gefunden. Die meisten waren von meinem Großvater, der zur See gefahren ist. Danach gingen wir im Park spazieren, obwohl es regnete. Meine Schwester kocht heute Abend für alle.",
    "es": "El domingo por la mañana salimos a comprar fruta en el mercado. Mi padre siempre elige los tomates más grandes. Después comimos en la terraza de un bar pequeño. Por la tarde los niños jugaron en la playa hasta que se hizo de noche.",
    "it": "Ieri sera abbiamo mangiato una pizza vicino alla stazione. Il cameriere ci ha raccontato la storia del palazzo di fronte. Poi siamo tornati a casa a piedi perché la notte era bella. Domani devo svegliarmi presto per andare al lavoro.",
    "pt": "A minha irmã comprou uma bicicleta usada para ir à escola. Ontem choveu muito e a rua ficou cheia de água. O vizinho ajudou a carregar as caixas até ao terceiro andar. Hoje vamos preparar o jantar todos juntos.",
    "nl": "Gisteren heb ik de hele dag in de tuin gewerkt met mijn buurman. We hebben een nieuwe schutting gebouwd en de oude bomen gesnoeid. Daarna dronken we koffie op het terras. Morgen gaan de kinderen weer naar school.",
    "ru": "Вчера мы целый день ехали на поезде и смотрели в окно на поля. Бабушка испекла пирог с капустой и поставила самовар. Вечером брат чинил старый велосипед во дворе. Завтра обещали дождь, поэтому мы останемся дома.",
    "zh": "昨天下午我们去河边散步，看到许多人在钓鱼。妹妹买了一把红色的雨伞，可是天一直没有下雨。晚上爸爸做了一桌好菜，大家吃得很开心。明天我要早起去学校参加比赛。",
    "ja": "昨日は友達と一緒に山へ行きました。天気がよくて、頂上から海が見えました。帰りに小さな店でそばを食べました。明日は仕事があるので早く寝ます。",
    "ar": "ذهبنا أمس إلى السوق القديم واشترينا بعض الخضار والفواكه. كان الطقس جميلا وكان الناس كثيرين. بعد ذلك شربنا الشاي في بيت جدتي. غدا سوف نسافر إلى المدينة.",
}  # fmt: skip
REFUSED = [
    "I'm sorry, but I can't help with that request.",
    "I apologize, but as an AI I don't have personal experiences to share.",
    "Sorry, I am not able to open links or look at pictures.",
    "As a language model, I do not have opinions of my own on this topic.",
    "I cannot provide instructions for this, since it could be harmful.",
    "Unfortunately, I'm unable to complete this task without more details.",
    "I'm an AI language model and cannot taste food, so I have no favourite dish.",
    "I am afraid I cannot do that. Is there anything else you would like to know?",
    "I'm afraid that goes against my guidelines, so I have to decline.",
    "My knowledge ends in September 2021, so I cannot say who won.",
    "I don't have access to real-time information such as the weather.",
    "I won't be able to assist with writing that letter.",
    "It is not appropriate for me to answer this question.",
    "I must respectfully decline to write about this.",
    "Being an artificial intelligence, I have never been to Paris.",
    "I can't browse the internet, but here is what I remember.",
    "Sorry, but I do not have enough information to answer this.",
    "As an AI assistant, I strive to be neutral and cannot choose a side.",
    "I'm just a chatbot, so I can't call the restaurant for you.",
    "I am unable to generate images.",
    "Apologies, but I can't share private data about people.",
    "К сожалению, я не могу ответить на этот вопрос.",
    "Извините, но я не имею права обсуждать эту тему.",
    "Как языковая модель, я не имею собственного мнения.",
    "Я искусственный интеллект, поэтому у меня нет любимого цвета.",
    "Простите, я не умею открывать ссылки.",
    "Я не могу помочь с этой просьбой.",
    "Будучи нейросетью, я не испытываю чувств.",
    "抱歉，我不能回答这个问题。",
    "作为一个人工智能助手，我没有个人的感受。",
    "对不起，我无法访问互联网。",
    "很抱歉，这个请求我帮不了你。",
    # added when the filter was done
    "I really shouldn't weigh in on that, so I will pass.",
    "I'm not able to verify that without looking it up.",
    "Thank you for asking, but I do not feel comfortable discussing this.",
    "Since I am a computer program, I do not have a favourite season.",
    "Sorry, I don't know how to do that.",
    "К сожалению, выполнить эту просьбу невозможно.",
    "Мне запрещено обсуждать такие вопросы.",
    "我只是一个语言模型，没有自己的看法。",
]
MARKED = [
    "{a}\n\n### Instruction:\n{q}",
    "{a}</s>",
    "{a}<|eot_id|>",
    "{a}<|im_end|>\n<|im_start|>user\n{q}",
    "{a}\n\nUser: {q}",
    "{a}\n\nHuman: {q}\n\nAssistant:",
    "Output: {a}",
    "### Response:\n{a}",
    "{a}\n\nInput: {q}\nOutput:",
    "{a} [/INST]",
    "[INST] {q} [/INST] {a}",
    "<start_of_turn>model\n{a}",
    "{a}<|endoftext|>{q}",
    "Assistant: {a}",
    "{a}\n\nQuestion: {q}\nAnswer:",
    "{a}\nTask 9: {q}",
    "{a}\n\nQ: {q}\nA:",
    "{a}<eos>",
    "<|assistant|>\n{a}",
    "Instruction: {q}\nOutput: {a}",
    "{a}\n## Input\n{q}",
    "{a}\nПользователь: {q}",
    "{a}\n\nЗадание 4: {q}",
    "{a}<end_of_turn>",
    "AI: {a}",
]  # fmt: skip
FIRST = "Anna Boris Carlos Dmitri Elena Fatima Georg Hana Ivan Julia Kenji Liu Maria Nina Omar Pavel".split()
LAST = "Smith Ivanova Garcia Mueller Tanaka Wang Petrov Rossi Novak Kim Larsen Dubois Khan Silva".split()
HOSTS = "gmail.com mail.ru yahoo.co.uk outlook.com proton.me uni-bonn.de qq.com free.fr acme-tools.io".split()


def digits(draw: random.Random, n: int) -> str:
    return str(draw.randrange(2, 10)) + "".join(draw.choice(string.digits) for _ in range(n - 1))


def _card(draw: random.Random) -> str:
    """Sixteen digits with Luhn's check digit."""
    body = draw.choice("45") + digits(draw, 14)
    total = 0
    for i, c in enumerate(reversed(body)):
        d = int(c) * (2 if i % 2 == 0 else 1)
        total += d - 9 if d > 9 else d
    whole = body + str(-total % 10)
    return draw.choice(["", " ", "-"]).join(whole[i : i + 4] for i in range(0, 16, 4))


def _iban(draw: random.Random) -> str:
    country, body = "DE", digits(draw, 18)
    number = int(body + "1314" + "00")  # D is 13, E is 14
    whole = f"{country}{98 - number % 97:02d}{body}"
    return draw.choice([whole, " ".join(re.findall(".{1,4}", whole))])


def _chinese_id(draw: random.Random) -> str:
    body = f"1101{draw.randrange(10, 99)}19{draw.randrange(50, 99)}0{draw.randrange(1, 10)}1{draw.randrange(10)}{draw.randrange(100, 1000)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 11]


def person(draw: random.Random) -> str:
    """A sentence with a number or an address of somebody."""
    first, last = draw.choice(FIRST), draw.choice(LAST)
    name = f"{first} {last}"
    d = lambda n: digits(draw, n)  # noqa: E731
    return draw.choice(
        [
            f"You can write to {first.lower()}.{last.lower()}{draw.choice(['', d(2)])}@{draw.choice(HOSTS)}.",
            f"Reach me at {first[0].lower()}_{last.lower()}@{draw.choice(HOSTS)} any time.",
            f"Call {name} on +1 ({d(3)}) {d(3)}-{d(4)}.",
            f"My number is ({d(3)}) {d(3)}-{d(4)}, ask for {first}.",
            f"{name}, +44 20 {d(4)} {d(4)}",
            f"Phone: +49 30 {d(7)}",
            f"Телефон: +7 ({d(3)}) {d(3)}-{d(2)}-{d(2)}, {name}",
            f"Звоните 8 {d(3)} {d(3)} {d(2)} {d(2)}.",
            f"联系电话：+86 138 {d(4)} {d(4)}",
            f"Her social security number is {draw.choice('123456')}{d(2)}-{d(2)}-{d(4)}.",
            f"The card number is {_card(draw)}.",
            f"Please pay to {_iban(draw)}.",
            f"身份证号 {_chinese_id(draw)}",
        ]
    )


Change = Callable[[Row, random.Random, list[Row]], Row]


def with_output(row: Row, output: str, **more) -> Row:
    return Row(row.instruction, row.input, output, **more)


def empty(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    return with_output(
        row, draw.choice(["", " ", "\n\n", "\u200b", "\u00a0 ", "\ufeff", "...", "-", "\t"])
    )


def cut_told(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    return with_output(cut(row, draw, rows), cut(row, draw, rows).output, finish=CUT)


def cut(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    return with_output(row, row.output[: int(len(row.output) * draw.uniform(0.3, 0.9))])


def duplicate(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    change = draw.choice(
        [str.upper, str.lower, lambda t: t.replace(" ", "  "), lambda t: f"{t}!", str]
    )
    return Row(change(row.instruction), row.input, change(row.output))


def near_duplicate(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    """About one word in ten is another, or gone."""

    def change(said: str) -> str:
        words = said.split(" ")
        other = draw.choice(rows).output.split(" ")
        for i in draw.sample(range(len(words)), max(1, len(words) // 10)):
            words[i] = draw.choice([draw.choice(other), words[i - 1], ""])
        return " ".join(words)

    return Row(change(row.instruction), row.input, change(row.output))


def other_language(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    sentences = re.findall(r"[^.。]+[.。]", OTHERS[draw.choice(list(OTHERS))])
    said = "".join(draw.sample(sentences, draw.randrange(1, 4))).strip()
    if draw.random() < 0.3:
        return Row(said, row.input, row.output)
    return with_output(row, said)


def repeated(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    words = row.output.split()
    n = draw.randrange(1, min(len(words), 25))
    begin = draw.randrange(len(words) - n)
    loop = " ".join(words[begin : begin + n])
    times = max(6, 40 // n) + draw.randrange(6)
    return with_output(row, " ".join([*words[: begin + n], *[loop] * times]))


def refused(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    said = draw.choice(REFUSED)
    return with_output(row, draw.choice([said, said, f"{said} {row.output}"]))


def marked(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    return with_output(
        row, draw.choice(MARKED).format(a=row.output, q=draw.choice(rows).instruction)
    )


def personal(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    said = person(draw)
    return with_output(row, draw.choice([f"{row.output} {said}", f"{said}\n{row.output}"]))


def broken_code(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    """A sign is left out of a program, or of a JSON object."""
    if draw.random() < 0.3:
        held = '{"name": "Ann", "age": 31, "tags": ["a", "b"], "home": {"city": "Bonn"}}'
        at = draw.choice([i for i, c in enumerate(held) if c in '{}[]":,'])
        return with_output(row, f"Here it is:\n```json\n{held[:at] + held[at + 1 :]}\n```")
    program = row.output
    signs = [i for i, c in enumerate(program) if c in "()[]:" and program[i + 1 : i + 2] != ":"]
    at = draw.choice(signs)
    broken = program[:at] + program[at + 1 :]
    return with_output(
        row,
        draw.choice(
            [f"```python\n{broken}\n```", f"Use this:\n```python\n{broken}\n```\nIt works.", broken]
        ),
    )


def broken_address(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    host = draw.choice(
        ["wikipedia.org/wiki/Cat", "example.com/a?b=1", "docs.python.org/3", "nature.com"]
    )
    broken = draw.choice(
        [
            "http//",
            "htp://",
            "https:/",
            "https:///",
            "htttp://",
            "https://.",
            "http://https://",
            "http:// ",
        ]
    )
    return with_output(row, f"{row.output} See {broken}{host} for more.")


def unsafe(words: tuple[str, ...]) -> Change:
    def change(row: Row, draw: random.Random, rows: list[Row]) -> Row:
        word = draw.choice(words)
        form = draw.choice(
            [
                str,
                str.upper,
                str.title,
                lambda w: w[0] + "\u200b" + w[1:],
                lambda w: w.replace("i", "1").replace("o", "0"),
                lambda w: f"{w}!!!",
                lambda w: f"*{w}*",
            ]
        )
        said = row.output.split(" ")
        said.insert(draw.randrange(len(said) + 1), form(word))
        return with_output(row, " ".join(said))

    return change


def copied(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    said = row.input or row.instruction
    return with_output(
        row, draw.choice([said, f" {said}\n", said.replace(" ", "  "), f"{said} Yes"])
    )


def no_option(row: Row, draw: random.Random, rows: list[Row]) -> Row:
    """The answer of another question."""
    others = [r.output for r in rows if r.options and r.output not in row.options]
    listed = "\n".join(f"{c}) {o}" for c, o in zip("abcdefgh", row.options, strict=False))
    if draw.random() < 0.5:
        return Row(
            f"Which of these is right?\n{listed}", row.input or row.instruction, draw.choice(others)
        )
    return with_output(row, draw.choice(others), options=row.options)
