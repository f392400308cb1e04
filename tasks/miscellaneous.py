# SPDX-License-Identifier: Apache-2.0
"""FLAN's remaining sets: conversational questions, kinds of questions, acceptability, word senses,
equations."""

from typing import Any

from itx.tasks.registry import instruction_task
from itx.tasks.spec import Skip, tfds
from tasks.from_tfds import checked, of_cluster, origins, plain, to_answer

MISCELLANEOUS = of_cluster("miscellaneous")


def coqa_fields(example: dict) -> Any:
    """One example per turn, with the turns before it: `Q: …\\nA: …\\nQ: …`."""
    turns, out = "", []
    for question, answer in zip(
        example["questions"], example["answers"]["input_text"], strict=True
    ):
        turns += f"Q: {question.strip()}"
        out.append(checked({"story": example["story"], "turns": turns, "answer": answer}))
        turns += f"\nA: {answer.strip()}\n"
    return out


instruction_task(
    "coqa", **MISCELLANEOUS, metrics=("exact_match", "squad_f1"), origin=origins("coqa"), fields=coqa_fields,
    source=tfds("coqa:1.0.0", ("train", "test")),
    templates=to_answer(
        "{story}\n\n{turns}\nA:",
        "Read the story, then answer the last question of the conversation.\n{story}\n\n{turns}",
        "Story: {story}\nConversation about it:\n{turns}\nWhat is the next answer?",
        "{turns}\n\nAnswer the last question from this text.\n{story}",
        "Two people talk about a text.\nText: {story}\n{turns}\nA:",
        "{story}\n\nGo on with the dialogue.\n{turns}",
    ),
    heldout_templates=to_answer(
        "Material: {story}\nInterview so far:\n{turns}\nReply briefly:",
        "{turns}\n(what follows? see: {story})",
    ),
)  # fmt: skip


def quac_fields(example: dict) -> Any:
    if example["orig_answer"]["text"] == "CANNOTANSWER":
        return Skip("the text has no answer")
    return checked({"title": example["title"], "section": example["section_title"], "question": example["question"],
                    "context": example["context"].removesuffix("CANNOTANSWER"),
                    "answer": [example["orig_answer"]["text"], *example["answers"]["text"]]})  # fmt: skip


instruction_task(
    "quac", **MISCELLANEOUS, metrics=("token_f1", "squad_f1"), origin=origins("quac"), fields=quac_fields,
    source=tfds("quac:1.0.0", {"train": "train", "test": "validation"}),
    templates=to_answer(
        "{title}: {section}\n{context}\n\n{question}",
        "From an article on {title}, section {section}:\n{context}\nQuestion: {question}\nAnswer:",
        "Answer with words of the text.\nText: {context}\nQuestion: {question}",
        "{question} (about {title})\n\n{context}",
        "A student reads about {title} and asks: {question}\nThe page says: {context}\nThe answer:",
        "Quote the part of the text that answers the question.\n{context}\n{question}",
    ),
    heldout_templates=to_answer(
        "You alone can see this page on {title}.\n{context}\nA caller wants to know: {question}",
        "{section} | {title}\n{context}\n?> {question}",
    ),
)  # fmt: skip

instruction_task(
    "trec", **MISCELLANEOUS, metrics=("accuracy",), origin=origins("trec"), source=tfds("trec:1.0.0", ("train", "test")),
    options=("description", "entity", "abbreviation", "human", "number", "location"),
    fields=plain("label-coarse", question="text"),
    templates=to_answer(
        "What kind of answer does this question want?\n{question}\n{options}",
        "{question}\nType of the answer:\n{options}",
        "Classify the question by what it asks for.\n{options}\n{question}",
        "Question: {question}\nIs it about a person, a place, a number or something else?\n{options}",
        "Somebody asks: {question}\nWhat would a reply be?\n{options}",
        "Does this question ask for a description, entity, abbreviation, human, number or location? {question}",
        "{question}\nOne of description, entity, abbreviation, human, number, location:",
    ),
    heldout_templates=to_answer(
        "Route an enquiry to the right desk.\n{options}\nEnquiry: {question}",
        "{options}\nExpected category behind \"{question}\"",
    ),
)  # fmt: skip
instruction_task(
    "cola", **MISCELLANEOUS, metrics=("accuracy",), origin=origins("cola"), options=("no", "yes"),
    source=tfds("glue/cola:2.0.0", {"train": "train", "test": "validation"}), fields=plain(sentence="sentence"),
    templates=to_answer(
        "{sentence}\nIs this sentence grammatical?\n{options}",
        "Sentence: {sentence}\nWould a speaker of English accept it?\n{options}",
        "Judge whether the following is good English.\n{sentence}\n{options}",
        "{options}\nIs the grammar right here? {sentence}",
        "A linguist tests this sentence: {sentence}\nIs it acceptable?\n{options}",
        "Is this correct English, yes or no? {sentence}",
        "{sentence}\nAnswer yes if it is well formed and no if it is not.",
    ),
    heldout_templates=to_answer(
        "Would a proofreader let \"{sentence}\" stand?\n{options}",
        "{options}\nFree of mistakes: {sentence}",
    ),
)  # fmt: skip
instruction_task(
    "wic", **MISCELLANEOUS, metrics=("accuracy",), origin=origins("wic"), options=("no", "yes"),
    source=tfds("super_glue/wic:1.0.2", {"train": "train", "test": "validation"}),
    fields=plain(word="word", first="sentence1", second="sentence2"),
    templates=to_answer(
        "{first}\n{second}\nDoes \"{word}\" mean the same in both sentences?\n{options}",
        "Word: {word}\nSentence 1: {first}\nSentence 2: {second}\nSame sense?\n{options}",
        "Is \"{word}\" used in one sense here?\n1. {first}\n2. {second}\n{options}",
        "{options}\nCompare the uses of \"{word}\". Are they alike?\n- {first}\n- {second}",
        "A dictionary lists the senses of \"{word}\". Do these fall under the same one?\n{first}\n{second}\n{options}",
        "{first}\n{second}\nThe same meaning of \"{word}\", yes or no?",
        "Answer yes if \"{word}\" has one meaning in both lines, else no.\n{first}\n{second}",
    ),
    heldout_templates=to_answer(
        "Ambiguity check for \"{word}\": {first} / {second}\nConsistent?\n{options}",
        "{options}\nTwo quotations, one entry for {word}?\n{first}\n{second}",
    ),
)  # fmt: skip
instruction_task(
    "linear_equations", **MISCELLANEOUS, metrics=("numeric", "exact_match"), origin=origins("math_dataset"),
    source=tfds("math_dataset/algebra__linear_1d:1.0.0", ("train", "test")), fields=plain("answer", problem="question"),
    templates=to_answer(
        "{problem}",
        "{problem}\nAnswer with a number.",
        "Problem: {problem}\nResult:",
        "Do the algebra. {problem}",
        "{problem}\nWhat is the value that is asked for?",
        "Work this out and give only the number.\n{problem}",
    ),
    heldout_templates=to_answer(
        "On the blackboard stands: {problem}\nA pupil writes below it:",
        "Equation task: {problem} =>",
    ),
)  # fmt: skip
