import pytest

from pairgrade import Grade, InputError, Pair, Rubric, RubricError
from pairgrade.fake import FakeTokenizer
from pairgrade.llama import LlamaBackend
from pairgrade.prompt import PromptBuilder, chat_format, detect_chat_format, label_ids

TREC = Rubric.load("trec")
PAIR = Pair("q", "d", "a query", "a document")


def text_of(builder: PromptBuilder, pair: Pair) -> str:
    prompt = builder.build(pair)
    tokenizer = FakeTokenizer()
    return "".join(tokenizer.piece(i) for part in (*prompt.prefix, prompt.suffix) for i in part.tolist())


def test_a_plain_prompt_reads_as_written() -> None:
    text = text_of(PromptBuilder(TREC, FakeTokenizer(), 4000), PAIR)
    assert text.startswith("<|begin|>" + TREC.instruction + "\n0: ")
    assert text.endswith("\n\nQuery: a query\nPassage: a document\nRating: ")
    assert text.count("<|begin|>") == 1


def test_a_title_goes_before_the_text() -> None:
    text = text_of(PromptBuilder(TREC, FakeTokenizer(), 4000), Pair("q", "d", "x", "body", "Title"))
    assert text.endswith("Passage: Title\nbody\nRating: ")


def test_an_empty_document_is_empty() -> None:
    rubric = Rubric("bare", "Grade it.", (Grade(0, "0", "no"), Grade(1, "1", "yes")), document_header="Passage:\n")
    prompt = PromptBuilder(rubric, FakeTokenizer(), 4000).build(Pair("q", "d", "a query", ""))
    assert (prompt.document_tokens, prompt.cut_tokens) == (0, 0)


def test_examples_stand_in_the_shared_part() -> None:
    from dataclasses import replace

    from pairgrade import Example

    rubric = replace(TREC, examples=(Example("tea", "Tea is a drink.", 2),))
    prompt = PromptBuilder(rubric, FakeTokenizer(), 4000).build(PAIR)
    instruction = bytes(prompt.prefix[0][1:].tolist()).decode()
    assert instruction.endswith("Query: tea\nPassage: Tea is a drink.\nRating: 2\n")


def test_pieces_fill_the_room_where_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PromptBuilder(TREC, FakeTokenizer(), 1000).build(Pair("q", "d", "query", "abc" * 30))
    monkeypatch.setattr("pairgrade.prompt._PIECE", 7)
    pieces = PromptBuilder(TREC, FakeTokenizer(), 1000).build(Pair("q", "d", "query", "abc" * 30))
    assert pieces.suffix.tolist() == whole.suffix.tolist()
    assert pieces.cut_tokens == whole.cut_tokens == 0


def test_a_context_too_small_for_the_rubric_is_refused() -> None:
    with pytest.raises(InputError, match="raise the context size"):
        PromptBuilder(TREC, FakeTokenizer(), 100)


def test_label_words_of_more_than_one_token_are_refused() -> None:
    rubric = Rubric("r", "i", (Grade(0, "no", "m"), Grade(1, "y", "m")))
    with pytest.raises(RubricError, match="label word 'no' of grade 0 is 2 tokens"):
        label_ids(rubric, FakeTokenizer())


def test_a_chat_format_that_does_not_fit_lists_those_that_do() -> None:
    with pytest.raises(InputError, match=r"<\|im_start\|>.*plain"):
        chat_format("chatml", FakeTokenizer())
    with pytest.raises(InputError, match="no chat format 'x'; there are: auto, qwen3"):
        chat_format("x", FakeTokenizer())


@pytest.mark.model
def test_chat_scaffold_and_labels_on_the_real_vocabulary(smollm2: LlamaBackend) -> None:
    tokenizer = smollm2.tokenizer
    assert detect_chat_format(tokenizer, smollm2.is_chat_model) == "chatml"
    builder = PromptBuilder(TREC, tokenizer, 512, "chatml")
    prompt = builder.build(PAIR)
    text = "".join(tokenizer.piece(i) for part in (*prompt.prefix, prompt.suffix) for i in part.tolist())
    assert text.startswith(f"<|im_start|>system\n{TREC.system}<|im_end|>\n<|im_start|>user\n{TREC.instruction}")
    assert text.endswith("Query: a query\nPassage: a document<|im_end|>\n<|im_start|>assistant\nRating: ")
    assert [tokenizer.piece(i) for i in builder.label_ids.tolist()] == ["0", "1", "2", "3"]


@pytest.mark.model
def test_pieces_of_a_plain_prompt_are_those_of_running_text(smollm2: LlamaBackend) -> None:
    """Building by piece must not move the tokens of ordinary text."""
    tokenizer = smollm2.tokenizer
    prompt = PromptBuilder(TREC, tokenizer, 512).build(PAIR)
    ids = [i for part in (*prompt.prefix, prompt.suffix) for i in part.tolist()]
    assert ids == tokenizer.plain("".join(tokenizer.piece(i) for i in ids)).tolist()


@pytest.mark.model
def test_a_space_in_the_label_word_is_pointed_out(smollm2: LlamaBackend) -> None:
    rubric = Rubric("r", "i", (Grade(0, " 0", "m"), Grade(1, " 1", "m")))
    with pytest.raises(RubricError, match="put the space at the end of the cue"):
        label_ids(rubric, smollm2.tokenizer)
