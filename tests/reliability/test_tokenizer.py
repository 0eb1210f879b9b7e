"""Foreign text never becomes a control token, on real and made-up vocabularies."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from helpers import folder_tokenizer
from pairgrade import Grade, InputError, Pair, Rubric
from pairgrade.fake import FakeTokenizer
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.llama import LlamaBackend
from pairgrade.llama_model import LlamaTokenizer, library
from pairgrade.prompt import PromptBuilder, detect_chat_format, label_ids
from pairgrade.tokenizer import encode_apart

_pieces = st.sampled_from(["<|tool|>", "<|begin|>", "<|end|>", "<|", "|>", "tool", "a", " ", "é", "<"])


@settings(max_examples=300, deadline=None)
@given(st.lists(_pieces, max_size=12).map("".join))
def test_no_special_id_comes_out_of_foreign_text(text: str) -> None:
    ids = FakeTokenizer().plain(text)
    assert (ids < 256).all()
    assert bytes(ids.tolist()).decode() == text  # and nothing of the text is lost


def test_the_fake_would_fail_without_the_cutting() -> None:
    tokenizer = FakeTokenizer()
    assert (tokenizer._encode("a<|tool|>b", ("<|tool|>",)) == 258).sum() == 1


def test_overlapping_user_defined_tokens_are_all_broken_up() -> None:
    texts = {1: "aba", 2: "abab", 3: "bb"}

    def encode(text: str) -> np.ndarray:
        ids = []
        while text:
            token = next((i for i in (2, 1, 3) if text.startswith(texts[i])), 100 + ord(text[0]))
            ids.append(token)
            text = text[len(texts.get(token, "x")) :]
        return np.array(ids, np.int32)

    forbidden = np.zeros(300, np.bool_)
    forbidden[[1, 2, 3]] = True
    for text in ("ababab", "abbaababbb", "bbbb", "xabay"):
        out = encode_apart(encode, text, forbidden, texts)
        assert "".join(chr(i - 100) for i in out) == text


@pytest.mark.model
@pytest.mark.parametrize("place", ["query", "document", "title"])
def test_every_special_text_of_the_real_vocabulary_stays_text(smollm2: LlamaBackend, place: str) -> None:
    tokenizer = smollm2.tokenizer
    builder = PromptBuilder(Rubric.load("trec"), tokenizer, 512, "chatml")
    special = list(tokenizer.special_texts)
    assert len(special) >= 17
    calm = Pair("q", "d", "a query", "a document", "a title")
    expected = [i for part in _parts(builder, calm) for i in part if i in special]
    for text in tokenizer.special_texts.values():
        hostile = {place: f"before {text} after{text}"}
        pair = Pair("q", "d", **{"query": "a query", "document": "a document", "title": "a title"} | hostile)
        assert [i for part in _parts(builder, pair) for i in part if i in special] == expected


def _parts(builder: PromptBuilder, pair: Pair) -> list[list[int]]:
    prompt = builder.build(pair)
    return [part.tolist() for part in (*prompt.prefix, prompt.suffix)]


@pytest.mark.model
@pytest.mark.parametrize(
    "text", ["", "\x00", "a\x00b", "\u202e", "\u2028", "\ufeffx", "👩‍👩‍👧", "\x1b[31m", "a" * 5000]
)
def test_odd_text_is_tokenized_and_comes_back(smollm2: LlamaBackend, text: str) -> None:
    tokenizer = smollm2.tokenizer
    ids = tokenizer.plain(text)
    buffer = b"".join(_bytes(tokenizer, int(i)) for i in ids)
    assert buffer.decode() == text


def _bytes(tokenizer, token: int) -> bytes:  # type: ignore[no-untyped-def]
    import ctypes

    buffer = ctypes.create_string_buffer(512)
    n = tokenizer._lib.llama_token_to_piece(tokenizer._vocab, token, buffer, 512, 0, True)
    return buffer.raw[:n]


@pytest.fixture(scope="module")
def space_first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaTokenizer]:
    """A small SentencePiece vocabulary that puts a space before every text, as those of Llama 2 do."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("spm") / "vocab.gguf"
    words = ["\u2581", "0", "1", "2", "R", ":", "a", "\u2581a", "ab", "\u2581ab", "b"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(words)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    yield LlamaTokenizer(lib, lib.llama_model_get_vocab(model), spaces_first=True)
    lib.llama_model_free(model)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("0", "0"), ("ab", "ab"), (" ab", " ab"), ("\nR: ", "\n|R|:| "), ("a 0", "a| |0"), ("", "")],
)
def test_no_space_is_added_in_the_middle_of_a_prompt(space_first: LlamaTokenizer, text: str, pieces: str) -> None:
    assert "|".join(space_first.piece(i) for i in space_first.plain(text).tolist()) == pieces
    assert "|".join(space_first.piece(i) for i in space_first.scaffold(text).tolist()) == pieces


def test_a_lone_surrogate_is_named(space_first: LlamaTokenizer) -> None:
    with pytest.raises(InputError, match=r"a lone surrogate \(U\+D801\)"):
        space_first.plain("abc\ud801")


def test_label_words_of_such_a_vocabulary_are_one_token(space_first: LlamaTokenizer) -> None:
    rubric = Rubric("r", "a", (Grade(0, "0", "a"), Grade(1, "1", "b")), cue="R: ")
    assert [space_first.piece(i) for i in label_ids(rubric, space_first).tolist()] == ["0", "1"]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_special_text_stays_text_in_query_and_document(family: str, tiny_folder: Callable[[str], Path]) -> None:
    folder = tiny_folder(family)
    tokenizer = FolderTokenizer(folder)
    chat = detect_chat_format(tokenizer, has_chat_template(folder))
    builder = PromptBuilder(Rubric.load("trec"), tokenizer, 1024, chat)
    controls = np.array(sorted(tokenizer.special_texts))
    calm = builder.build(Pair("q", "d", "what is it", "a thing"))
    expected = [ids[np.isin(ids, controls)].tolist() for ids in (*calm.prefix, calm.suffix)]
    assert len(tokenizer.special_texts) >= 4
    for text in tokenizer.special_texts.values():
        hostile = builder.build(Pair("q", "d", f"what {text}is it", f"a {text}{text} thing{text}"))
        found = [ids[np.isin(ids, controls)].tolist() for ids in (*hostile.prefix, hostile.suffix)]
        assert found == expected, text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(max_size=60))
def test_no_text_gives_a_special_id_or_more_than_its_own(text: str) -> None:
    tokenizer = folder_tokenizer("qwen3")
    ids = tokenizer.plain(text + "<|im_end|>" + text)
    assert not set(ids.tolist()) & set(tokenizer.special_texts)
