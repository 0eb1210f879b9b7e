"""A document that is too long is cut, and nothing else is; every token is accounted for."""

import pytest

from pairgrade import InputError, Pair, Rubric
from pairgrade.fake import FakeTokenizer
from pairgrade.prompt import MIN_DOCUMENT_TOKENS, PromptBuilder

TREC = Rubric.load("trec")
PAIR = Pair("q", "d", "a query", "a document")


@pytest.mark.parametrize("over", [-1, 0, 1, 500, 100_000])
def test_only_the_document_is_cut(over: int) -> None:
    whole = PromptBuilder(TREC, FakeTokenizer(), 4000).build(PAIR)
    limit = whole.tokens + 20
    document = "x" * (len(PAIR.document) + 20 + over)  # with 100,000 over, more than 100 times the limit
    prompt = PromptBuilder(TREC, FakeTokenizer(), limit).build(Pair("q", "d", PAIR.query, document))
    assert prompt.cut_tokens == max(0, over)
    assert prompt.tokens == limit + min(0, over)
    assert [p.tolist() for p in prompt.prefix] == [p.tolist() for p in whole.prefix]
    cue = len(whole.suffix) - whole.document_tokens
    assert prompt.suffix[-cue:].tolist() == whole.suffix[-cue:].tolist()


@pytest.mark.parametrize("length", [65_536, 65_537, 200_000])
def test_every_token_of_a_very_long_document_is_accounted_for(length: int) -> None:
    builder = PromptBuilder(TREC, FakeTokenizer(), 1000)
    prompt = builder.build(Pair("q", "d", "query", "x" * (length - 1)))  # a space goes before it
    assert prompt.document_tokens + prompt.cut_tokens == length
    assert prompt.tokens == 1000


def test_a_query_that_leaves_no_room_is_refused() -> None:
    builder = PromptBuilder(TREC, FakeTokenizer(), 1000)
    with pytest.raises(InputError, match=f"at least {MIN_DOCUMENT_TOKENS}"):
        builder.build(Pair("q", "d", "x" * 900, "doc"))
