"""The llama.cpp backend on the real SmolLM2: whatever runs beside a pair, its logits are the same to the bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs
from pairgrade import Annotator, InputError, LlamaOptions, ModelError, Rubric
from pairgrade.llama import LlamaBackend
from pairgrade.llama_model import library
from pairgrade.prompt import Prompt, PromptBuilder

pytestmark = pytest.mark.model
CONTEXT = 320


def prompts(backend: LlamaBackend) -> tuple[list[Prompt], np.ndarray]:
    builder = PromptBuilder(Rubric.load("trec"), backend.tokenizer, CONTEXT)
    return [builder.build(pair) for pair in make_pairs(3, 5)], builder.label_ids


def scores(backend: LlamaBackend, order: list[int] | None = None) -> np.ndarray:
    """Label logits and log total (15, 5), one call a pair, in the given order."""
    items, labels = prompts(backend)
    out = np.empty((len(items), 5))
    for i in order or range(len(items)):
        result = backend.score(items[i].prefix, [items[i].suffix], labels)
        out[i, :4], out[i, 4] = result.logits[0], result.log_totals[0]
    return out


@pytest.fixture(scope="module")
def calm(smollm2_path: Path) -> np.ndarray:
    """Every prompt whole, in a fresh cache."""
    backend = LlamaBackend(smollm2_path, LlamaOptions(context=CONTEXT, reuse=False))
    out = scores(backend)
    assert backend.counters.reused == 0
    backend.close()
    return out


def test_a_kept_prefix_changes_no_bit(smollm2: LlamaBackend, calm: np.ndarray) -> None:
    reused = smollm2.counters.reused
    assert (scores(smollm2) == calm).all()
    assert smollm2.counters.reused > reused


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_order_changes_a_bit(smollm2: LlamaBackend, calm: np.ndarray, seed: int) -> None:
    order = list(range(len(calm)))
    random.Random(seed).shuffle(order)
    assert (scores(smollm2, order) == calm).all()


def test_a_batch_is_its_members(smollm2: LlamaBackend, calm: np.ndarray) -> None:
    items, labels = prompts(smollm2)
    for first in range(0, len(items), 5):
        result = smollm2.score(items[first].prefix, [p.suffix for p in items[first : first + 5]], labels)
        assert (result.logits == calm[first : first + 5, :4]).all()


def test_threads_change_no_bit(smollm2_path: Path, calm: np.ndarray) -> None:
    for threads in (1, 3):
        backend = LlamaBackend(smollm2_path, LlamaOptions(context=CONTEXT, threads=threads))
        assert (scores(backend) == calm).all()
        backend.close()


@pytest.mark.parametrize("unified", [False, True])
def test_several_documents_in_one_decode_are_close_but_not_equal(
    smollm2_path: Path, calm: np.ndarray, unified: bool
) -> None:
    """The reason for one document at a time: a unified cache makes the equality above fail."""
    backend = LlamaBackend(smollm2_path, LlamaOptions(context=CONTEXT, sequences=5, kv_unified=unified))
    items, labels = prompts(backend)
    rows = []
    for first in range(0, len(items), 5):
        result = backend.score(items[first].prefix, [p.suffix for p in items[first : first + 5]], labels)
        rows.append(result.logits)
    backend.close()
    worst = np.abs(np.concatenate(rows) - calm[:, :4]).max()
    assert worst < 2.0  # the same prompts, in another arithmetic
    if unified:
        assert worst > 0.0


def test_a_prefix_cut_anywhere_gives_the_same_judgment(smollm2: LlamaBackend) -> None:
    """Segments are decodes of their own: where they are cut may move a logit by rounding only.

    By more where a segment is one token: llama.cpp then multiplies by another kernel, which moved 4-bit logits by 0.2
    on a processor with VNNI. A token less would move them by 0.8.
    """
    items, labels = prompts(smollm2)
    whole = np.concatenate(items[0].prefix)
    expected = smollm2.score(items[0].prefix, [items[0].suffix], labels).logits[0]
    for cut in [*range(16, len(whole), 48), len(whole) - 1]:
        result = smollm2.score([whole[:cut], whole[cut:]], [items[0].suffix], labels).logits[0]
        assert np.abs(result - expected).max() < (0.05 if cut < len(whole) - 1 else 0.4)


def test_a_failed_decode_leaves_no_trace(
    smollm2: LlamaBackend, calm: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, labels = prompts(smollm2)
    with monkeypatch.context() as patch:
        patch.setattr(smollm2._lib, "llama_decode", lambda *_: 1)
        with pytest.raises(ModelError, match="no room in the KV cache"):
            smollm2.score(items[7].prefix, [items[7].suffix], labels)
    assert (scores(smollm2) == calm).all()


def test_a_prompt_beyond_the_context_is_refused(smollm2: LlamaBackend) -> None:
    items, labels = prompts(smollm2)
    with pytest.raises(ModelError, match="does not fit the context of 512"):
        smollm2.score(items[0].prefix, [np.ones(600, np.int32)], labels)
    with pytest.raises(ModelError, match="empty suffix"):
        smollm2.score(items[0].prefix, [np.ones(0, np.int32)], labels)


def test_the_log_total_is_that_of_the_whole_vocabulary(smollm2: LlamaBackend) -> None:
    items, labels = prompts(smollm2)
    every = np.arange(smollm2.tokenizer.size, dtype=np.int32)
    result = smollm2.score(items[0].prefix, [items[0].suffix], every)
    assert result.log_totals is not None
    logits = result.logits[0].astype(np.float64)
    assert result.log_totals[0] == pytest.approx(logits.max() + np.log(np.exp(logits - logits.max()).sum()), abs=1e-5)
    some = smollm2.score(items[0].prefix, [items[0].suffix], labels)
    assert (some.logits[0] == result.logits[0][labels]).all()
    assert some.log_totals is not None
    assert some.log_totals[0] == result.log_totals[0]


def test_a_model_that_nobody_holds_is_freed(tiny_gguf_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib, freed = library(), []
    for name in ("llama_free", "llama_model_free"):
        real = getattr(lib, name)
        monkeypatch.setattr(lib, name, lambda handle, name=name, real=real: (freed.append(name), real(handle)))
    annotator = Annotator.open(tiny_gguf_path)
    assert len(list(annotator.label(make_pairs(1, 2)))) == 2
    tokenizer = annotator._backend.tokenizer
    del annotator  # no collector is asked
    assert freed == ["llama_free"]  # the vocabulary lies in the model
    assert tokenizer.plain("some text").size > 0
    del tokenizer
    assert freed == ["llama_free", "llama_model_free"]
    with Annotator.open(tiny_gguf_path):
        pass
    assert len(freed) == 4  # once each


@pytest.mark.parametrize(
    "wrong", [{"context": 8}, {"threads": 0}, {"sequences": 0}, {"sequences": 64}, {"threads": 1.5}, {"threads": True}]
)
def test_options_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        LlamaOptions(**wrong)  # type: ignore[arg-type]


def test_a_whole_number_of_numpy_is_one() -> None:
    assert LlamaOptions(threads=np.int64(2)) == LlamaOptions(threads=2)  # type: ignore[arg-type]
    assert type(LlamaOptions(threads=np.int64(2)).threads) is int  # type: ignore[arg-type]


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelError, match=r"broken\.gguf: llama\.cpp cannot load it"):
        LlamaBackend(path)
