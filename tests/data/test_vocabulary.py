# SPDX-License-Identifier: Apache-2.0
"""Three kinds of vocabulary: texts come back, prompts are cut as inference cuts them, special
tokens are the file's."""

import json
import shutil

import pytest

from itx.data.vocabulary import IMAGE, Vocabulary
from itx.errors import UserError
from itx.prepare.vocab import keep_given
from itx.text_format.pieces import encoded
from tests.conftest import REPO

TOKENIZER = REPO / "tests" / "golden" / "hf" / "qwen3" / "tokenizer.json"
TEXTS = [
    "Сколько будет дважды два? Ёжик — и всё.", "二加二等于多少？答案是四。", "def f(x):\n    return {x: -1}\t# ok\n",
    "naïve 👩‍🚀🎉 œuf", "two  spaces, and a  tail ", "",
]  # fmt: skip


@pytest.fixture(scope="module", params=["tokenizer", "bytes", "mistral"])
def vocabulary(request, tmp_path_factory) -> Vocabulary:
    if request.param == "tokenizer":
        return Vocabulary(TOKENIZER)
    if request.param == "bytes":
        file = tmp_path_factory.mktemp("bytes") / "bytes.json"
        file.write_text('{"extra_ids": 125}')
        return Vocabulary(file)
    return Vocabulary(
        request.getfixturevalue("shared") / "tokenizers" / "mistral_v1_32k" / "tokenizer.model.v1"
    )


def test_texts_come_back(vocabulary):
    ids = vocabulary.encode_batch(TEXTS)
    assert [vocabulary.decode(i) for i in ids] == TEXTS
    assert [vocabulary.encode(t) for t in TEXTS] == ids
    assert all(0 <= i < vocabulary.size for row in ids for i in row)
    # a padding row of the embedding
    assert vocabulary.decode([*ids[0], vocabulary.size + 7]).startswith(TEXTS[0])


def test_where_each_id_begins(vocabulary):
    for text, ids in zip(TEXTS[:4], vocabulary.encode_batch(TEXTS[:4]), strict=True):
        starts = vocabulary.starts(text)
        assert len(starts) == len(ids) and starts == sorted(starts)
        # they are places in the text, which has characters of several bytes
        assert {text[i] for i in starts} - {" "}
        assert max(starts) < len(text)


@pytest.mark.parametrize("prompt", ["Вопрос: сколько?", "问题：多少？", "Answer:", "a = f(x)\n"])
@pytest.mark.parametrize("target", ["четыре", "四个", "yes, it is", "🎉"])
def test_prompt_and_target_are_cut_as_at_inference(vocabulary, prompt, target):
    """The prompt's ids are those of the prompt alone, and prompt and target together read as joined
    by one space."""
    ids, answer = vocabulary.encode(prompt), vocabulary.following([target])[0]
    assert vocabulary.decode([*ids, *answer]) == f"{prompt} {target}"
    assert vocabulary.answer(answer) == target
    if not prompt.endswith("\n"):  # joint encoding cuts there too
        assert [*ids, *answer] == vocabulary.encode(f"{prompt} {target}")


def test_pieces_of_a_conversation_join_to_its_text(vocabulary):
    parts = [
        ("<|user|>\nсколько?\n<|bot|>\n", False),
        ("четыре", True),
        ("\n<|user|>\n多少？ и:", False),
        (" 四", True),
    ]
    record = encoded(parts, vocabulary)
    assert [trained for _, trained in record] == [False, True, False, True]
    assert vocabulary.decode([i for ids, _ in record for i in ids]) == "".join(
        text for text, _ in parts
    )
    assert record[0][0] == vocabulary.encode(parts[0][0])


def test_special_tokens_are_those_of_the_models_own_files(tmp_path):
    vocabulary = Vocabulary(TOKENIZER)
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.bos_id) == (0, 1, 0)
    assert vocabulary.pieces([1, 2]) == ["</s>", "<|im_start|>"]
    assert vocabulary.behind("", "<|im_start|>user") == [2, *vocabulary.encode("user")]
    assert 2 not in vocabulary.encode("<|im_start|>user")  # in a content it is text
    shutil.copy(TOKENIZER, tmp_path)
    with pytest.raises(UserError, match="no end-of-sequence piece"):
        Vocabulary(tmp_path / TOKENIZER.name)
    special = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(special))
    other = Vocabulary(tmp_path / TOKENIZER.name)
    # named, but never put there
    assert (other.eos_id, other.begins, other.hash != vocabulary.hash) == (3, False, True)
    held = json.loads(TOKENIZER.read_bytes())
    held["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [2], "tokens": ["<|im_start|>"]}},
    }  # fmt: skip
    (tmp_path / TOKENIZER.name).write_text(json.dumps(held))
    other = Vocabulary(tmp_path / TOKENIZER.name)
    assert (other.bos_id, other.begins) == (2, True)
    (tmp_path / TOKENIZER.name).write_text("{}")
    with pytest.raises(UserError, match="nor a tokenizer.json"):
        Vocabulary(tmp_path / TOKENIZER.name)


def test_bytes_are_numbered_as_in_byt5(tmp_path):
    (tmp_path / "bytes.json").write_text('{"extra_ids": 125}')
    vocabulary = Vocabulary(tmp_path / "bytes.json")
    assert vocabulary.encode("aя") == [100, 212, 146] and vocabulary.size == 384
    assert vocabulary.pieces([0, 1, 100, 383]) == ["<pad>", "</s>", "<0x61>", "<extra_id_0>"]
    # half a character, and ids that are no bytes
    assert vocabulary.decode([100, 383, 1, 212]) == "a"


def with_token(folder, content: str):
    """A copy of the tokenizer with one more added token, of id 312."""
    held = json.loads(TOKENIZER.read_bytes())
    more = {**held["added_tokens"][0], "id": 312, "content": content}
    folder.mkdir(exist_ok=True)
    (folder / TOKENIZER.name).write_text(
        json.dumps({**held, "added_tokens": [*held["added_tokens"], more]})
    )
    shutil.copy(TOKENIZER.parent / "tokenizer_config.json", folder)
    return folder / TOKENIZER.name


def test_the_token_for_images_is_left_out_of_a_text_models_vocabulary(tmp_path):
    """Gemma 3's text models have no row for it; any other token that has none makes the vocabulary
    too large."""
    file = with_token(tmp_path, IMAGE)
    whole, fits = (Vocabulary(file, rows) for rows in (0, 312))
    assert (whole.size, fits.size) == (313, 312) and whole.behind("", IMAGE) == [312]
    assert fits.decode(fits.encode(IMAGE)) == IMAGE and fits.encode("да") == whole.encode("да")
    assert Vocabulary(file, 311).size == 312
    kept = Vocabulary(keep_given(str(file), "", str(tmp_path / "cache"), 312))
    assert kept.size == 312 and kept.hash == fits.hash
    other = with_token(tmp_path / "other", "<tool>")
    assert Vocabulary(other, 312).size == 313
    assert Vocabulary(keep_given(str(other), "", str(tmp_path / "cache"), 312)).behind(
        "", "<tool>"
    ) == [312]


def test_a_tokenizers_broken_files_are_named(tmp_path):
    file = with_token(tmp_path, "<tool>")
    for text, words in (
        ("[]", "expected a JSON object, found list"),
        ('{"eos_to', "no readable JSON"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(UserError, match=f"tokenizer_config.json: {words}"):
            Vocabulary(file)
