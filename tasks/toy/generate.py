# SPDX-License-Identifier: Apache-2.0
"""What the toy clusters share: word lists, seeded examples, families of inputs, frames for
templates.

Definitions
    family   a name and a function `one(draw) -> example`. Example i of suite seed s is
             `one(Random(f"{family}/{s}/{i}"))`: a pure function of (family, s, i). Tasks of one
             family get identical inputs, so that only the instruction tells them apart.
    frame    a sentence with `<>` for what is asked for and `@` for the input. Each task takes eight
             of
             its language's frames (or sentences of its own) for training and holds out one more,
             which sibling tasks train on, and NEW, which no task trains on.
"""

import random
import zlib
from collections.abc import Callable, Sequence

from itx.tasks.spec import Source, Template, function

EXAMPLES = 5000  # per task, all splits; 5 % of it leaves about 250 test examples
SPLIT = {"train": 0.9, "validation": 0.05, "test": 0.05}
TRAIN_TEMPLATES = 8

NAMES = (
    "Anna Boris Clara David Emma Felix Greta Hugo Ivan Julia Karl Lena Mark Nina Oscar Paul".split()
)
COLOURS = "red blue green white black yellow pink gray".split()
ADJECTIVES = [*COLOURS, "big", "small", "old", "new"]
ANIMALS = "cat dog horse cow fox wolf bear goat duck mouse".split()
FRUITS = "apple pear plum lemon peach melon cherry grape fig mango".split()
CLOTHES = "hat coat shirt shoe scarf glove belt sock".split()
# these stand in the same order in THINGS_RU and THINGS_LUMO
THINGS = (
    "key ball table chair knife house garden forest bread cheese soup bridge "
    "leaf umbrella ticket backpack phone compass stone hammer pencil lantern oak whistle"
).split()
NOUNS = [*THINGS, *ANIMALS, *FRUITS, *CLOTHES]
PLURALS = "coins books cups apples pears plums keys maps rings lamps pens boxes cards stamps nuts shells".split()

NAMES_RU = "Анна Борис Вера Глеб Дина Егор Зоя Иван Катя Лев Мария Нина Олег Павел Роза Юра".split()
# masculine and inanimate: the accusative is the nominative, and adjectives have one form
THINGS_RU = (
    "ключ мяч стол стул нож дом сад лес хлеб сыр суп мост "
    "лист зонт билет рюкзак телефон компас камень молоток карандаш фонарь дуб свисток"
).split()
ADJECTIVES_RU = (
    "красный синий зелёный белый чёрный жёлтый розовый серый большой маленький старый новый".split()
)
COLOURS_RU = ADJECTIVES_RU[:8]
# genitive plural: the form after 5 to 20
PLURALS_RU = "яблок груш слив книг ключей мячей ламп карт монет шаров билетов камней".split()

# Lumo, the suite's constructed language: nouns end in -o, adjectives in -i and follow their noun
THINGS_LUMO = (
    "tavo belo miro suno keto dalo fimo goro pano chezo supo ponto "
    "lifo pluvo tiko sako fono norto roko marto grifo lumo arbo pipo"
).split()
ADJECTIVES_LUMO = "rubi azuli verdi blanki nigri flavi rozi grizi grandi eti oldi novi".split()
# other invented words, for dictionaries that stand in the prompt
INVENTED = "bim dak fep gol hux jat lom mib nud pex quf rik saz tup vog wem yil zab drin klo shef trum".split()

FRAMES = {
    "en": (
        "What is <>?\n@",
        "Take @ and pick <>.",
        "@\nGive <>.",
        "Write <>: @",
        "Find <>.\n@",
        "Read this: @\nNow name <>.",
        "Look at @ and choose <>.",
        "@\nPlease print <>.",
        "Here you see @\nShow <>.",
        "Tell me <>.\n@",
        "With @ in view return <>.",
        "Only one answer: @\nI need <>.",
        "From this: @\nSay <>.",
    ),
    "ru": (
        "Назови <>: @",
        "Возьми @ и выбери <>.",
        "@\nНапиши <>.",
        "Найди <>.\n@",
        "Прочитай: @\nТеперь укажи <>.",
        "Посмотри на @ и верни <>.",
        "@\nПокажи <>.",
        "Дай <>.\n@",
        "Вот данные: @\nСкажи <>.",
        "@\nПожалуйста, выведи <>.",
        "Вот @, теперь отметь <>.",
        "Нужен только один ответ: @\nОпредели <>.",
        "Посмотри сюда: @\nСообщи <>.",
    ),
}
NEW = {"en": "From @ please name only <>.", "ru": "Прочитай @ и дай в ответ только <>."}


def family(name: str, one: Callable[[random.Random], dict]) -> Source:
    """The source of every task in a family of inputs."""

    def make(split: str, root: str, seed: int):
        for i in range(EXAMPLES):
            yield one(random.Random(f"{name}/{seed}/{i}"))

    return function(make, SPLIT)


def wording(
    task: str,
    block: str,
    asked: Sequence[str],
    own: Sequence[str] = (),
    held: Sequence[str] = (),
    language: str = "en",
) -> dict[str, list[Template]]:
    """Templates from frames: `asked` are names for what is wanted, of at most three words outside slots.

    own    whole sentences that are trained on too
    held   whole sentences that are held out in place of the two frames (needed where `asked` is longer)

    >>> wording("first_word", "{words}", ["the first word"])["templates"][0]
    ('What is the first word?\\n{words}', '{answer}')  # or a later frame: tasks begin at different ones
    """
    frames = FRAMES[language]
    start = zlib.crc32(task.encode()) % len(frames)
    frames = frames[start:] + frames[:start]

    def put(frame: str, i: int) -> str:
        return frame.replace("<>", asked[i % len(asked)]).replace("@", block)

    out = (
        [*own, *(put(f, i) for i, f in enumerate(frames[1 : 1 + TRAIN_TEMPLATES - len(own)]))]
        if asked
        else [*own]
    )
    held = [*held, put(frames[0], 0), put(NEW[language], 1)][:2] if asked else held
    return {
        "templates": [(t, "{answer}") for t in out],
        "heldout_templates": [(t, "{answer}") for t in held],
    }


def words_of(nouns: Sequence[str]) -> Callable[[random.Random], dict]:
    def one(draw: random.Random) -> dict:
        """A list of 3 to 6 nouns; `query` has a word `next` to it; `probe` stands there or not."""
        words = draw.sample(nouns, draw.randint(3, 6))
        at = draw.randrange(len(words) - 1)
        inside = draw.random() < 0.5
        probe = draw.choice(words) if inside else draw.choice([w for w in nouns if w not in words])
        return {"list": words, "query": words[at], "next": words[at + 1], "probe": probe}

    return one


def listed(e: dict) -> dict:
    """The values that all tasks on lists of words share, whether their instructions need them or
    not."""
    return {"words": " ".join(e["list"]), "query": e["query"], "probe": e["probe"]}


def tallies(draw: random.Random) -> dict:
    """Two people who have different numbers of the same thing."""
    (n, m), (a, b) = draw.sample(NAMES, 2), draw.sample(range(2, 21), 2)
    return {"n": n, "m": m, "a": a, "b": b, "item": draw.choice(PLURALS)}


def tallies_fields(e: dict) -> dict:
    """The values that all tasks on tallies share."""
    facts = f"{e['n']} has {e['a']} {e['item']}, {e['m']} has {e['b']} {e['item']}."
    return {"facts": facts, "item": e["item"]}


WORDS_EN = family("words_en", words_of(NOUNS))
WORDS_RU = family("words_ru", words_of(THINGS_RU))
TALLIES = family("tallies", tallies)
