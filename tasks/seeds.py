# SPDX-License-Identifier: Apache-2.0
"""The seed examples of instruction tuning as small tasks, in Russian and English, no download.

    seed_en_fr        «Переведите следующее предложение на французский: 'The cat is on the table.'»
    seed_capitals     «Какая столица Франции?» -> «Столица Франции - Париж.»
    seed_train_ru     a train covers 120 km in 2 hours: its speed, direct and with the steps
                      (`:cot`)
    seed_train_en     the same in English, over the same numbers

The mixture `seeds` holds them all. The lists are ours; train problems are computed.
"""

from collections.abc import Iterator
from typing import Any

from itx.tasks.registry import instruction_task, mixture
from itx.tasks.spec import CoT, function

# Small lists: enough for training after a few are set aside by content hash.
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

SENTENCES = (
    ("The cat is on the table.", "Le chat est sur la table."),
    ("The dog is under the bed.", "Le chien est sous le lit."),
    ("The book is in the bag.", "Le livre est dans le sac."),
    ("The house is big.", "La maison est grande."),
    ("The garden is small.", "Le jardin est petit."),
    ("My brother is a doctor.", "Mon frère est médecin."),
    ("My sister lives in Paris.", "Ma sœur habite à Paris."),
    ("I am reading a newspaper.", "Je lis un journal."),
    ("I like coffee.", "J'aime le café."),
    ("We drink water.", "Nous buvons de l'eau."),
    ("They are eating bread.", "Ils mangent du pain."),
    ("She has two children.", "Elle a deux enfants."),
    ("He is ten years old.", "Il a dix ans."),
    ("It is raining today.", "Il pleut aujourd'hui."),
    ("It is cold in winter.", "Il fait froid en hiver."),
    ("Where is the station?", "Où est la gare ?"),
    ("What time is it?", "Quelle heure est-il ?"),
    ("The door is open.", "La porte est ouverte."),
    ("The window is closed.", "La fenêtre est fermée."),
    ("The train arrives at noon.", "Le train arrive à midi."),
    ("I do not understand.", "Je ne comprends pas."),
    ("The children play in the park.", "Les enfants jouent dans le parc."),
    ("This apple is red.", "Cette pomme est rouge."),
    ("The sea is blue.", "La mer est bleue."),
    ("We work every day.", "Nous travaillons tous les jours."),
    ("He is writing a letter.", "Il écrit une lettre."),
    ("Thank you for your help.", "Merci pour votre aide."),
    ("I am going to school.", "Je vais à l'école."),
    ("The soup is hot.", "La soupe est chaude."),
    ("Our teacher speaks slowly.", "Notre professeur parle lentement."),
)

# The country in the genitive («столица чего?») and its capital
CAPITALS = (
    ("Франции", "Париж"), ("Германии", "Берлин"), ("Италии", "Рим"), ("Испании", "Мадрид"),
    ("Португалии", "Лиссабон"), ("Греции", "Афины"), ("Польши", "Варшава"), ("Чехии", "Прага"),
    ("Австрии", "Вена"), ("Венгрии", "Будапешт"), ("Румынии", "Бухарест"), ("Болгарии", "София"),
    ("Сербии", "Белград"), ("Хорватии", "Загреб"), ("Швеции", "Стокгольм"), ("Норвегии", "Осло"),
    ("Финляндии", "Хельсинки"), ("Дании", "Копенгаген"), ("Ирландии", "Дублин"), ("Исландии", "Рейкьявик"),
    ("Бельгии", "Брюссель"), ("Латвии", "Рига"), ("Литвы", "Вильнюс"), ("Эстонии", "Таллин"),
    ("России", "Москва"), ("Турции", "Анкара"), ("Египта", "Каир"), ("Японии", "Токио"),
    ("Китая", "Пекин"), ("Индии", "Нью-Дели"), ("Таиланда", "Бангкок"), ("Вьетнама", "Ханой"),
    ("Канады", "Оттава"), ("Кубы", "Гавана"), ("Перу", "Лима"), ("Чили", "Сантьяго"),
)  # fmt: skip


def sentences(split: str, root: str, seed: int) -> Iterator[dict]:
    for english, french in SENTENCES:
        yield {"english": english, "french": french}


def capitals(split: str, root: str, seed: int) -> Iterator[dict]:
    for country, capital in CAPITALS:
        yield {"country": country, "capital": capital}


def journeys(split: str, root: str, seed: int) -> Iterator[dict]:
    """Every journey of 1 to 9 hours at 30 to 120 km/h in steps of 5: 171 problems."""
    for hours in range(1, 10):
        for speed in range(30, 121, 5):
            yield {"hours": hours, "speed": speed, "distance": hours * speed}


def hours_ru(n: int) -> str:
    """1 час, 2 часа, 5 часов (for the numbers below 10 used here)."""
    return f"{n} " + ("час" if n == 1 else "часа" if n < 5 else "часов")


def hours_en(n: int) -> str:
    return f"{n} hour" + "s" * (n != 1)


def translation_fields(example: dict) -> dict[str, Any]:
    return {"english": example["english"], "answer": example["french"]}


def capital_fields(example: dict) -> dict[str, Any]:
    return {"country": example["country"], "answer": example["capital"]}


def train_fields_ru(example: dict) -> dict[str, Any]:
    distance, hours, speed = example["distance"], example["hours"], example["speed"]
    steps = (
        "Скорость равна расстоянию, делённому на время.\n"
        f"Расстояние {distance} км, время {hours_ru(hours)}.\n{distance} / {hours} = {speed}."
    )
    return {
        "distance": f"{distance} км",
        "time": hours_ru(hours),
        "rationale": steps,
        "answer": f"{speed} км/ч",
    }


def train_fields_en(example: dict) -> dict[str, Any]:
    distance, hours, speed = example["distance"], example["hours"], example["speed"]
    steps = (
        "Speed is distance divided by time.\n"
        f"The distance is {distance} km, the time is {hours_en(hours)}.\n{distance} / {hours} = {speed}."
    )
    return {
        "distance": f"{distance} km",
        "time": hours_en(hours),
        "rationale": steps,
        "answer": f"{speed} km/h",
    }


instruction_task(
    "seed_en_fr", version=1, cluster="seed_translation", metrics=("contains", "exact_match"),
    source=function(sentences, SHARES), fields=translation_fields, tags={"language": "ru,en,fr"},
    templates=[
        ("Переведите следующее предложение на французский: '{english}'", "{answer}"),
        ("Как сказать по-французски: '{english}'?", "{answer}"),
        ("{english}\nНапишите это на французском языке.", "{answer}"),
        ("Translate the following sentence into French: '{english}'", "{answer}"),
        ("How does one say this in French? {english}", "{answer}"),
        ("English: {english}\nFrench:", "{answer}"),
    ],
    heldout_templates=[
        ("Дан английский текст: {english}\nНужен французский перевод.", "{answer}"),
        ("Put '{english}' into the language of France.", "{answer}"),
    ],
)  # fmt: skip

_CAPITAL = "Столица {country} - {answer}."
instruction_task(
    "seed_capitals", version=1, cluster="seed_facts", metrics=("contains", "exact_match"),
    source=function(capitals, SHARES), fields=capital_fields, tags={"language": "ru"},
    templates=[
        ("Какая столица {country}?", _CAPITAL),
        ("Назовите столицу {country}.", _CAPITAL),
        ("Какой город - столица {country}?", _CAPITAL),
        ("Столица {country} - это какой город?", _CAPITAL),
        ("Ответьте одним предложением: какая столица {country}?", _CAPITAL),
        ("Вопрос: какая столица {country}?\nОтвет:", _CAPITAL),
    ],
    heldout_templates=[
        ("Напишите главный город {country}.", _CAPITAL),
        ("Где находится правительство {country}? Укажите город.", _CAPITAL),
    ],
)  # fmt: skip

_TARGET_RU = ("{answer}", "{rationale}\nОтвет: {answer}.")
_TARGET_EN = ("{answer}", "{rationale}\nThe answer is {answer}.")
_TRAIN_RU = "Поезд проехал {distance} за {time}. Какова его скорость?"
_TRAIN_EN = "A train travels {distance} in {time}. What is its speed?"

instruction_task(
    "seed_train_ru", version=1, cluster="seed_word_problems", metrics=("numeric",),
    source=function(journeys, SHARES), fields=train_fields_ru, content=("distance", "time"),
    tags={"language": "ru"},
    templates=[
        (_TRAIN_RU, _TARGET_RU[0]),
        ("За {time} поезд прошёл {distance}. Найдите скорость поезда.", _TARGET_RU[0]),
        ("Задача: путь поезда {distance}, время в пути {time}. С какой скоростью он ехал?", _TARGET_RU[0]),
        ("Поезд был в пути {time} и преодолел {distance}. Вычислите скорость.", _TARGET_RU[0]),
        ("Расстояние: {distance}\nВремя: {time}\nСкорость:", _TARGET_RU[0]),
        ("{distance} за {time} - какая это скорость поезда?", _TARGET_RU[0]),
    ],
    heldout_templates=[
        ("Состав ехал {time}, позади осталось {distance}. Насколько быстро он двигался?", _TARGET_RU[0]),
        ("Определите по этим данным быстроту движения: {distance}, {time}.", _TARGET_RU[0]),
    ],
    cot=CoT(
        [
            (_TRAIN_RU + " Решите по шагам.", _TARGET_RU[1]),
            ("Решите задачу шаг за шагом: за {time} поезд прошёл {distance}. Найдите скорость.", _TARGET_RU[1]),
            ("Путь {distance}, время {time}. Объясните, как найти скорость поезда.", _TARGET_RU[1]),
        ],
        [("Покажите ход решения. Состав ехал {time}, позади осталось {distance}.", _TARGET_RU[1])],
    ),
)  # fmt: skip

instruction_task(
    "seed_train_en", version=1, cluster="seed_word_problems", metrics=("numeric",),
    source=function(journeys, SHARES), fields=train_fields_en, content=("distance", "time"),
    tags={"language": "en"},
    templates=[
        (_TRAIN_EN, _TARGET_EN[0]),
        ("In {time} a train covers {distance}. Find the speed.", _TARGET_EN[0]),
        ("Problem: distance {distance}, duration {time}. How fast was the train?", _TARGET_EN[0]),
        ("The train was on its way for {time} and went {distance}. Compute the speed.", _TARGET_EN[0]),
        ("Distance: {distance}\nTime: {time}\nSpeed:", _TARGET_EN[0]),
        ("{distance} in {time}: which speed is that?", _TARGET_EN[0]),
    ],
    heldout_templates=[
        ("After {time} on the rails, {distance} lie behind us. Tell me our pace.", _TARGET_EN[0]),
        ("State the average rate of motion, given {distance} and {time}.", _TARGET_EN[0]),
    ],
    cot=CoT(
        [
            (_TRAIN_EN + " Solve it step by step.", _TARGET_EN[1]),
            ("Write down the steps. In {time} a train covers {distance}. Find the speed.", _TARGET_EN[1]),
            ("Distance {distance}, time {time}. Explain how to get the speed of the train.", _TARGET_EN[1]),
        ],
        [("After {time} on the rails, {distance} lie behind us. Derive our pace.", _TARGET_EN[1])],
    ),
)  # fmt: skip

mixture(
    "seeds",
    [
        "seed_en_fr",
        "seed_capitals",
        "seed_train_ru",
        "seed_train_ru:cot",
        "seed_train_en",
        "seed_train_en:cot",
    ],
)
