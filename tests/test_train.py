"""Training: the shared instruction against whole prompts, a stopped run against one that was not."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from helpers import run_command, write_jsonl
from pairgrade import InputError, MissingExtraError, ModelError, Pair, ResumeError, Rubric, StorageError, spool
from pairgrade.file_hashes import file_sha256
from pairgrade.judgments import open_writer
from pairgrade.llama import LlamaBackend
from pairgrade.prompt import PromptBuilder, detect_chat_format
from pairgrade.qrels import read_qrels
from pairgrade.readers import Source, numbered_pairs, read_pairs
from pairgrade.records import Judgment
from pairgrade.stop import StopRequested

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pairgrade.cli.train_progress import TerminalTrainProgress  # noqa: E402
from pairgrade.train import checkpoint, run  # noqa: E402
from pairgrade.train.base_model import add_lora, base_dtype, folder_digest, load_model  # noqa: E402
from pairgrade.train.checkpoint import Checkpoints, State  # noqa: E402
from pairgrade.train.examples import Blend, Example, examples, micro_batches  # noqa: E402
from pairgrade.train.fitting import TrainProgress, rate_at, total_steps  # noqa: E402
from pairgrade.train.label_model import LabelModel  # noqa: E402
from pairgrade.train.loop import Data, _Fit, batch_at  # noqa: E402
from pairgrade.train.losses import label_loss  # noqa: E402
from pairgrade.train.merge import TOLERANCE, merge  # noqa: E402
from pairgrade.train.metrics import Evaluation, evaluation, is_better  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402
from pairgrade.train.prompts import builder_of  # noqa: E402
from pairgrade.train.run import TrainJob, train  # noqa: E402
from pairgrade.train.trunk import Trunk  # noqa: E402

RUBRIC = Rubric.load("trec")
SMALL = TrainOptions(
    train_pairs=16, validation_pairs=8, epochs=2, batch=8, micro_batch_tokens=200, rank=4, learning_rate=5e-3,
    evaluate_every=2, patience=0,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def graded_pairs(queries: int = 8) -> list[Pair]:
    words = ("water boils at", "a mountain router", "hold the button", "grade of the passage")
    return [
        Pair(f"q{q}", f"d{d}", f"what is {words[q % 4]} {q}?", f"{words[d % 4]} {q * d} " * (1 + d % 3), grade=d % 4)
        for q in range(queries)
        for d in range(8)
    ]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(str(write_jsonl(tmp_path / "graded.jsonl", graded_pairs())))


def fitted(folder: Path, options: TrainOptions, *, trunk: bool = True) -> tuple[_Fit, list[Example]]:
    builder = builder_of(folder, RUBRIC, options)
    data = list(examples(graded_pairs(2), Blend(RUBRIC.values, {}), builder))
    adapted = add_lora(load_model(folder, options), options)
    model = LabelModel(adapted, builder.label_ids, options.layers if trunk else 0)
    return _Fit(model, Data(data, data, RUBRIC.values), options, None, TrainProgress()), data  # type: ignore[arg-type]


def gradient(folder: Path, options: TrainOptions, *, trunk: bool = True, steps: int = 1) -> Any:
    fit, _ = fitted(folder, options, trunk=trunk)
    with torch.no_grad():
        for name, parameter in fit._parameters.items():  # B begins at zero, which would hide A's gradient
            if "lora_B" in name:
                parameter.add_(0.02)
    for _ in range(steps):
        fit._look(0)  # as a run does before its first step, in another mode of torch
        fit._gradients(0)
    return torch.cat([parameter.grad.flatten() for parameter in fit._parameters.values()])


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_shared_instruction_gives_the_gradient_of_whole_prompts(
    family: str, tiny_folder: Callable[[str], Path]
) -> None:
    settings = {"batch": 16, "rank": 4, "seed": 1}
    shared = gradient(tiny_folder(family), TrainOptions(**settings, micro_batch_tokens=150))
    whole = gradient(tiny_folder(family), TrainOptions(**settings, share_prefix=False, micro_batch_tokens=100_000))
    assert float(shared.norm()) > 1e-3
    bound = 2e-2 if torch.cuda.is_available() else 1e-4  # the base is in bfloat16 there
    assert float((shared - whole).norm() / whole.norm()) < bound


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_kept_states_of_the_layers_below_change_no_gradient(
    family: str, shared: bool, tiny_folder: Callable[[str], Path]
) -> None:
    options = TrainOptions(batch=16, rank=4, seed=1, layers=1, share_prefix=shared, micro_batch_tokens=800)
    plain = gradient(tiny_folder(family), options, trunk=False)
    assert float(plain.norm()) > 1e-3
    for steps in (1, 2):  # the second step finds what the first has kept
        kept = gradient(tiny_folder(family), options, steps=steps)
        assert kept.shape == plain.shape
        assert float((kept - plain).norm() / plain.norm()) < 1e-5


def test_only_the_layers_asked_for_are_adapted(tiny_folder: Callable[[str], Path]) -> None:
    fit, _ = fitted(tiny_folder("qwen2"), TrainOptions(layers=1))
    assert fit._parameters
    assert all(".layers.1." in name for name in fit._parameters)
    with pytest.raises(InputError, match="3 layers are to be adapted; the model has 2"):
        fitted(tiny_folder("qwen2"), TrainOptions(layers=3))
    with pytest.raises(InputError, match="leave gradient checkpointing out"):
        TrainOptions(layers=1, gradient_checkpointing=True)


def test_states_beyond_the_limit_are_computed_again(tiny_folder: Callable[[str], Path]) -> None:
    fit, data = fitted(tiny_folder("llama"), TrainOptions(layers=1))
    rows = [example.prompt.ids for example in data[:5]]
    trunk = Trunk(fit._model._decoder, 1, limit=len(rows[0]) * 64 * 4)
    first, again = trunk.states(rows, None), trunk.states(rows, None)
    assert len(trunk._kept) == 1
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(first, Trunk(fit._model._decoder, 1).states(rows, None))


def test_gradient_checkpointing_changes_no_gradient(tiny_folder: Callable[[str], Path]) -> None:
    plain = gradient(tiny_folder("llama"), TrainOptions(share_prefix=False))
    recomputed = gradient(tiny_folder("llama"), TrainOptions(gradient_checkpointing=True))
    assert float((plain - recomputed).norm() / plain.norm()) < 1e-5


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_label_logits_are_those_of_transformers(family: str, tiny_folder: Callable[[str], Path]) -> None:
    options = TrainOptions()
    fit, data = fitted(tiny_folder(family), options)
    model, prompt = fit._model, data[3].prompt
    whole = np.concatenate([*prompt.prefix, prompt.suffix])
    with torch.inference_mode():
        ids = torch.from_numpy(whole[None].astype(np.int64)).to(model.device)
        expected = model.model(ids).logits[0, -1].float().cpu()
        found = model.logits([whole])[0].cpu()
    builder = builder_of(tiny_folder(family), RUBRIC, options)
    bound = 2e-2 if torch.cuda.is_available() else 1e-4  # the base is in bfloat16 there
    np.testing.assert_allclose(found, expected[builder.label_ids.astype(int)], rtol=bound, atol=bound)


@pytest.mark.model
def test_training_and_labelling_see_the_same_ids(smollm2: LlamaBackend, smollm2_folder: Path) -> None:
    trainer = builder_of(smollm2_folder, RUBRIC, TrainOptions(context=512))
    chat = detect_chat_format(smollm2.tokenizer, smollm2.is_chat_model)
    engine = PromptBuilder(RUBRIC, smollm2.tokenizer, 512, chat)
    assert trainer.label_ids.tolist() == engine.label_ids.tolist()
    texts = ["½ of 1,000 <|im_end|>\n", "word " * 900, "日本語 ﬁ Ⅳ", "<|im_start|>user\nRating: 3"]
    for text in texts:
        pair = Pair("q", "d", text[:40], text, "a title")
        ours, theirs = trainer.build(pair), engine.build(pair)
        assert [s.tolist() for s in (*ours.prefix, ours.suffix)] == [
            s.tolist() for s in (*theirs.prefix, theirs.suffix)
        ]


def test_queries_are_told_apart_by_their_text(tmp_path: Path) -> None:
    pairs = graded_pairs(6)
    pairs += [replace(pair, query_id=f"{pair.query_id}-again") for pair in pairs]
    pairs += [replace(pair, query_id="q0", doc_id="other", query="another text") for pair in pairs[:1]]
    found, _, _ = run._rows(Source(str(write_jsonl(tmp_path / "graded.jsonl", pairs))), Blend(RUBRIC.values, {}))
    assert {row.query_id: row.text_id for row in found} == {
        pair.query_id: pair.query_id.removesuffix("-again") for pair in pairs
    }
    assert len({row.text_id for row in found if row.query_id == "q0"}) == 1  # whatever its texts are


def test_training_learns_what_can_be_learnt(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    path = write_jsonl(tmp_path / "graded.jsonl", graded_pairs(24))
    options = TrainOptions(
        train_pairs=96, validation_pairs=32, epochs=12, batch=16, rank=8, learning_rate=1e-2, patience=0
    )
    trained = train(TrainJob(Source(str(path)), str(tiny_folder("qwen3")), tmp_path / "a", RUBRIC), options)
    assert trained.best.loss < 0.6 * trained.evaluations[0].loss
    assert trained.best.kappa is not None
    assert trained.best.kappa > 0.5


def test_the_folder_holds_what_a_reader_needs(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    out = tmp_path / "adapter"
    train(TrainJob(source, str(tiny_folder("qwen2")), out, RUBRIC), SMALL)
    manifest = json.loads((out / "manifest.json").read_text())
    names = {path.name for path in out.iterdir()}
    assert names == {*manifest["files"], "manifest.json"}
    assert {"adapter_model.safetensors", "adapter_config.json", "report.json", "curves.png", "confusion.png"} <= names
    assert all(file_sha256(out / name) == digest for name, digest in manifest["files"].items())
    report = json.loads((out / "report.json").read_text())
    assert report["pairs"]["train"] == 16
    assert report["pairs"]["train_grades"] == dict.fromkeys("0123", 4)
    assert report["pairs"]["with_soft_targets"] == 0
    card = (out / "README.md").read_text()
    assert f"(grade 0: 4, 1: 4, 2: 4, 3: 4; of the input with sha256 {manifest['identity']['input']})" in card
    assert "`held-out.qrels` has what" in card
    assert "another annotator" not in card
    held = list(read_qrels(out / "held-out.qrels"))
    assert {row.query_id for row in held} == set(report["validation_query_ids"])
    pairs = {(p.query_id, p.doc_id): p.grade for p in read_pairs(source) if isinstance(p, Pair)}
    queries = {row.query_id for row in held}
    assert {(row.query_id, row.doc_id): row.grade for row in held} == {
        k: v for k, v in pairs.items() if k[0] in queries
    }
    assert len(queries) == report["pairs"]["validation_queries"]
    assert len(report["losses"]) == report["steps"] == 4


def test_judgments_of_other_pairs_are_no_soft_targets(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    judgments = tmp_path / "big.jsonl"
    with open_writer(judgments, RUBRIC.values) as writer:
        writer.write(Judgment("other", "d1", 0, (0.7, 0.1, 0.1, 0.1), 0.6, None, False, 1, 1, 0))
    job = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC, judgments)
    with pytest.raises(InputError, match=r"big.jsonl has judgments of none of the \d+ pairs of .*graded.jsonl"):
        train(job, SMALL)


def test_held_out_pairs_that_cannot_be_written_lose_no_training(
    source: Source,
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(path: Path, rows: Any) -> int:
        raise InputError("an id that qrels cannot hold")

    monkeypatch.setattr("pairgrade.train.adapter.write_qrels", refuse)
    out = train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL).adapter
    assert "held-out.qrels" not in (out / "README.md").read_text()
    assert "held-out.qrels is not written: an id" in caplog.text


def test_another_job_does_not_touch_an_unfinished_one(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    class Stop(TrainProgress):
        def step(self, loss: float) -> None:
            raise KeyboardInterrupt

    job = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC)
    with pytest.raises(KeyboardInterrupt):
        train(job, SMALL, Stop())
    with pytest.raises(ResumeError, match=r"option\.seed"):
        train(job, replace(SMALL, seed=7))
    train(job, SMALL)
    with pytest.raises(ResumeError, match="exists already"):
        train(job, SMALL)


def test_soft_targets_are_blended_with_human_grades(tmp_path: Path) -> None:
    pair = graded_pairs()[1]
    blend = Blend(RUBRIC.values, {("q0", "d1"): (0.1, 0.2, 0.3, 0.4)}, {("q0", "d1"): 2}, weight=0.5)
    assert blend.target(pair) == pytest.approx((0.05, 0.6, 0.15, 0.2))
    bare = Pair("q0", "d1", "q", "d")
    assert blend.target(bare) == (0.1, 0.2, 0.3, 0.4)
    assert blend.grade(bare) == 2  # which a calibration chose
    assert blend.target(Pair("q9", "d1", "q", "d")) is None


def test_another_annotators_labels_train_without_human_grades(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    bare = [Pair(p.query_id, p.doc_id, p.query, p.document) for p in graded_pairs()]
    judgments = tmp_path / "big.jsonl"
    with open_writer(judgments, RUBRIC.values) as writer:
        for pair in graded_pairs():
            row = [0.1, 0.1, 0.1, 0.1]
            row[pair.grade or 0] = 0.7
            expected = sum(grade * p for grade, p in enumerate(row))
            writer.write(
                Judgment(pair.query_id, pair.doc_id, pair.grade or 0, tuple(row), expected, None, False, 1, 1, 0)
            )
    source = Source(str(write_jsonl(tmp_path / "bare.jsonl", bare)))
    with pytest.raises(InputError, match="none of its 64 rows"):
        train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "no" / "such" / "a", RUBRIC), SMALL)
    assert not (tmp_path / "no").exists()
    trained = train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC, judgments), SMALL)
    assert trained.steps == 4
    assert not (tmp_path / "a" / "held-out.qrels").exists()  # nobody graded a pair
    card = (tmp_path / "a" / "README.md").read_text()
    assert "held-out.qrels" not in card
    told = "Of all usable pairs 64 have the probabilities of another annotator as their target (judgments with sha256 "
    assert told + file_sha256(judgments) in card
    some = [replace(pair, grade=3 if place % 3 else None) for place, pair in enumerate(bare)]
    source = Source(str(write_jsonl(tmp_path / "some.jsonl", some)))
    train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "b", RUBRIC, judgments), SMALL)
    queries = set(json.loads((tmp_path / "b" / "report.json").read_text())["validation_query_ids"])
    assert len(queries) == 3
    people = {(p.query_id, p.doc_id) for p in some if p.grade is not None and p.query_id in queries}
    held = list(read_qrels(tmp_path / "b" / "held-out.qrels"))
    assert {(row.query_id, row.doc_id) for row in held} == people
    assert {row.grade for row in held} == {3}


def test_pairs_of_the_same_ids_are_told_as_label_tells_them(tmp_path: Path) -> None:
    pairs = graded_pairs()
    bare = Pair("q1", "d2", "q", "d")  # without a grade, of the ids of another
    path = write_jsonl(tmp_path / "twice.jsonl", [*pairs, pairs[3], *pairs[20:26], pairs[3], bare])
    with pytest.raises(InputError) as of_label:
        spool.build(tmp_path / "spool", numbered_pairs(Source(str(path))), spool.Selection(), str(path))
    with pytest.raises(InputError) as of_train:
        train(TrainJob(Source(str(path)), "no model is looked for", tmp_path / "a", RUBRIC), SMALL)
    assert "8 pair(s) of ids occur more than once: ('q0', 'd3') on lines 4, 65, 72" in str(of_train.value)
    assert str(of_label.value) == f"{of_train.value}, or take the first of each with --duplicates first"


def test_an_input_that_grows_while_it_is_read_is_told(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def growing(given: Source) -> Iterator[Any]:
        yield from numbered_pairs(given)
        with open(given.pairs, "a") as file:
            file.write(json.dumps(asdict(graded_pairs()[0]) | {"query_id": "late"}) + "\n")

    monkeypatch.setattr(run.readers, "numbered_pairs", growing)
    job = TrainJob(source, "no model is looked for", tmp_path / "a", RUBRIC)
    with pytest.raises(InputError, match=r"graded\.jsonl changed while it was read; when it is whole, run the same"):
        train(job, SMALL)
    assert not (tmp_path / "a.run").exists()


def test_the_ordinal_loss_makes_far_misses_dearer() -> None:
    targets = torch.eye(4)[[0, 0]]
    near, far = torch.tensor([[0.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 4.0]])
    logits = torch.stack((near, far))
    plain, ordinal = label_loss(logits, targets), label_loss(logits, targets, 1.0)
    assert float(plain[0]) == pytest.approx(float(plain[1]))
    assert float(ordinal[1]) > float(ordinal[0]) + 0.5
    probability = torch.softmax(near, 0)
    by_hand = sum(float(probability[: i + 1].sum() - 1.0) ** 2 for i in range(4))
    assert float(ordinal[0] - plain[0]) == pytest.approx(by_hand, abs=1e-5)


def test_every_epoch_sees_each_pair_once_in_another_order() -> None:
    options = TrainOptions(batch=4)
    grades = [0, 1, 2, 3, 0, 0, 1, 0, 2, 1]
    epochs = [[place for step in range(3) for place in batch_at(3 * epoch + step, grades, options)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("counts", [(25, 25, 25, 25), (60, 20, 10, 10), (90, 10)])
def test_every_batch_holds_the_grades_in_proportion(counts: tuple[int, ...]) -> None:
    grades = [grade for grade, count in enumerate(counts) for _ in range(count)]
    for step in range(6):
        batch = [grades[place] for place in batch_at(step, grades, TrainOptions(batch=16))]
        for grade, count in enumerate(counts):
            assert abs(batch.count(grade) - len(batch) * count / 100) < 2, (step, grade)


def test_the_rate_rises_and_falls() -> None:
    options = TrainOptions(learning_rate=1e-3, warmup=0.2)
    rates = [rate_at(step, 20, options) for step in range(20)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert max(rates) == 1e-3
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 1e-4
    assert total_steps(10, TrainOptions(epochs=2.5, batch=4)) == 8


def test_micro_batches_stay_within_the_budget() -> None:
    lengths = [5, 90, 40, 41, 7, 6, 300]
    batches = micro_batches(lengths, 100)
    assert sorted(place for batch in batches for place in batch) == list(range(7))
    assert batches[0] == [6]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 100 for batch in batches[1:])


def test_figures_are_those_of_the_reference_implementations() -> None:
    from scipy.stats import kendalltau
    from sklearn.metrics import cohen_kappa_score

    grades, truth, answer = (0, 1, 10), [0, 1, 10, 0, 1, 10, 10, 0], [0, 1, 1, 1, 1, 10, 10, 0]
    targets = [tuple(float(grade == true) for grade in grades) for true in truth]
    prompt: Any = None  # plays no part
    found = [Example("q", "d", prompt, target, true) for target, true in zip(targets, truth, strict=True)]
    logits = np.array([[5.0 * (grade == given) for grade in grades] for given in answer], np.float32)
    figures = evaluation(1, logits, found, grades)
    kappa = cohen_kappa_score(truth, answer, weights="quadratic", labels=range(11))  # by the grades, not their places
    assert figures.kappa == pytest.approx(kappa)
    assert figures.tau == pytest.approx(kendalltau(truth, answer).statistic)
    assert figures.accuracy == 6 / 8
    assert figures.confusion == ((2, 1, 0), (0, 2, 0), (0, 1, 2))
    same = evaluation(1, logits[:1], found[:1], grades)
    assert (same.kappa, same.tau, same.accuracy) == (None, None, 1.0)


def test_what_better_means() -> None:
    one = Evaluation(1, 1.0, 0.2, None, 0.5, ())
    other = Evaluation(2, 0.9, 0.1, 0.3, 0.5, ())
    assert is_better(other, one, "loss")
    assert is_better(one, other, "kappa")
    assert is_better(other, one, "tau")


def test_grades_that_the_rubric_lacks_are_told(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    path = write_jsonl(tmp_path / "odd.jsonl", [Pair("q", "d", "a", "b", grade=7)])
    with pytest.raises(InputError, match=r"grade 7; the rubric's grades are 0, 1, 2, 3"):
        train(TrainJob(Source(str(path)), str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL)


def test_a_model_of_several_is_refused(source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder = tmp_path / "gemma-3-4b"
    shutil.copytree(tiny_folder("gemma3"), folder)
    text = json.loads((folder / "config.json").read_text())
    parts = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (folder / "config.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match=r"type 'gemma3' reads pictures or sound .* only text-only models"):
        train(TrainJob(source, str(folder), tmp_path / "a", RUBRIC), SMALL)


def test_four_bits_need_a_gpu_and_a_library(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(qlora=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"needs a CUDA GPU, and torch sees none here; .*: pip install bitsandbytes"):
        load_model(tiny_folder("llama"), options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match="run: pip install bitsandbytes"):
        load_model(tiny_folder("llama"), options)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any processor one where a base is in float32 unless a test says otherwise: the bounds are for that."""
    monkeypatch.setattr("pairgrade.train.base_model.cpu_features", lambda: frozenset({"avx2"}))


def on_a_machine(patch: pytest.MonkeyPatch, *, cuda: bool, tiles: bool) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: cuda)
    features = frozenset({"avx2", "amx_bf16"} if tiles else {"avx2", "amx_int8"})
    patch.setattr("pairgrade.train.base_model.cpu_features", lambda: features)


@pytest.mark.parametrize(
    ("options", "cuda", "tiles", "dtype"),
    [
        ({}, False, False, "float32"),
        ({}, False, True, "bfloat16"),
        ({}, True, False, "bfloat16"),
        ({}, True, True, "bfloat16"),
        ({"dtype": "float32"}, True, True, "float32"),
        ({"dtype": "bfloat16"}, False, False, "bfloat16"),
        ({"qlora": True}, True, False, "bfloat16"),
        ({"qlora": True, "dtype": "bfloat16"}, True, False, "bfloat16"),
    ],
)
def test_the_dtype_is_the_machines_faster_one_unless_it_is_given(
    options: dict[str, Any], cuda: bool, tiles: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, cuda=cuda, tiles=tiles)
    assert base_dtype(TrainOptions(**options)) == dtype


def test_a_dtype_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="dtype is 'float16'; it can be auto, float32, bfloat16"):
        TrainOptions(dtype="float16")
    with pytest.raises(InputError, match=r"--qlora keeps the base in 4 bits.* leave --dtype float32 or --qlora out"):
        TrainOptions(qlora=True, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_and_logits_are_in_float32_whatever_the_base_is_in(dtype: str, tiny_folder: Callable[[str], Path]) -> None:
    fit, data = fitted(tiny_folder("qwen2"), TrainOptions(dtype=dtype, rank=4))
    parameters = list(fit._model.model.parameters())
    assert {p.dtype for p in parameters if not p.requires_grad} == {getattr(torch, dtype)}
    assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}
    assert fit._model.logits([data[0].prompt.ids]).dtype == torch.float32


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_gradient_in_bfloat16_is_that_of_whole_prompts_too(family: str, tiny_folder: Callable[[str], Path]) -> None:
    options = TrainOptions(batch=16, rank=4, seed=1, dtype="bfloat16", micro_batch_tokens=150)
    shared = gradient(tiny_folder(family), options)
    whole = gradient(tiny_folder(family), replace(options, share_prefix=False, micro_batch_tokens=100_000))
    assert float((shared - whole).norm() / whole.norm()) < 2e-2
    last = replace(options, layers=1)
    plain = gradient(tiny_folder(family), last, trunk=False)
    kept = gradient(tiny_folder(family), last, steps=2)
    assert float((kept - plain).norm() / plain.norm()) < 2e-2


def test_a_base_in_bfloat16_teaches_what_one_in_float32_does(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    from safetensors.torch import load

    base, found = str(tiny_folder("qwen3")), {}
    for dtype in ("float32", "bfloat16"):
        found[dtype] = train(TrainJob(source, base, tmp_path / dtype, RUBRIC), replace(SMALL, dtype=dtype))
        assert json.loads((tmp_path / dtype / "report.json").read_text())["options"]["dtype"] == dtype
    assert found["bfloat16"].losses != found["float32"].losses
    assert np.mean(found["bfloat16"].losses) == pytest.approx(np.mean(found["float32"].losses), rel=0.02)
    assert found["bfloat16"].losses == pytest.approx(found["float32"].losses, rel=0.05)  # 0.02 was seen on a Zen 5
    assert found["bfloat16"].best.loss < found["bfloat16"].evaluations[0].loss
    weights = load((tmp_path / "bfloat16" / "adapter_model.safetensors").read_bytes())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    merged = merge(tmp_path / "bfloat16", tmp_path / "merged", graded_pairs()[:2], threads=1)
    assert merged.moved > merged.difference
    assert merged.difference <= TOLERANCE


def test_a_run_goes_on_in_the_dtype_that_it_began_in(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(name: str) -> TrainJob:
        return TrainJob(source, str(tiny_folder("llama")), tmp_path / name, RUBRIC)

    def begun(name: str, options: TrainOptions) -> dict[str, str]:
        with monkeypatch.context() as patch:
            stopped_at_the_second_look(patch)
            with pytest.raises(StopRequested):
                train(job(name), options)
        identity: dict[str, str] = json.loads((tmp_path / f"{name}.run" / "manifest.json").read_text())["identity"]
        return identity

    on_a_machine(monkeypatch, cuda=False, tiles=False)
    assert "option.dtype" not in begun("a", SMALL)  # as of a run that began before there was a choice
    on_a_machine(monkeypatch, cuda=False, tiles=True)
    with pytest.raises(ResumeError, match=r"another job: option\.dtype \(was absent, now bfloat16\)"):
        train(job("a"), SMALL)
    assert train(job("a"), replace(SMALL, dtype="float32")).steps == 4
    assert begun("b", SMALL)["option.dtype"] == "bfloat16"
    with pytest.raises(ResumeError, match=r"option\.dtype \(was bfloat16, now absent\)"):
        train(job("b"), replace(SMALL, dtype="float32"))
    on_a_machine(monkeypatch, cuda=False, tiles=False)
    resumed = train(job("b"), replace(SMALL, dtype="bfloat16"))
    assert resumed.losses == train(job("c"), replace(SMALL, dtype="bfloat16")).losses


def test_the_command_takes_the_dtype(tmp_path: Path, source: Source, tiny_folder: Callable[[str], Path]) -> None:
    from pairgrade.cli.train import command

    given = (source.pairs, "--base", tiny_folder("llama"), "--out", tmp_path / "a", "--context", 400, "--quiet",
             "--train-pairs", 16, "--validation-pairs", 8, "--epochs", 1, "--threads", 1)  # fmt: skip
    run_command(command, *given, "--dtype", "bfloat16")
    assert json.loads((tmp_path / "a" / "report.json").read_text())["options"]["dtype"] == "bfloat16"
    with pytest.raises(InputError, match="--qlora keeps the base in 4 bits"):
        run_command(command, *given, "--dtype", "float32", "--qlora")


@pytest.mark.parametrize("refused", ["write_bytes", "write_text"])
def test_at_every_moment_one_whole_checkpoint_can_be_read(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> tuple[dict[str, Any], Any]:
        parameter = torch.nn.Parameter(torch.zeros(3))
        return {"a": parameter}, torch.optim.AdamW([parameter], lr=0.5)

    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    assert Checkpoints(tmp_path).load(*made()) is None
    parameters, optimizer = made()
    state = State()
    kept = []
    for _ in range(3):
        parameters["a"].grad = torch.ones(3)
        optimizer.step()
        state.step += 1
        state.losses.append(0.5)
        with monkeypatch.context() as patch:
            if state.step == 3:  # the tensors of this step cannot be written, or only the state that names them
                patch.setattr(checkpoint, refused, refuse)
            with contextlib.suppress(StorageError):
                Checkpoints(tmp_path).save(state, parameters, optimizer)
        kept.append(parameters["a"].detach().clone())
    again, fresh = made()
    found = Checkpoints(tmp_path).load(again, fresh)
    assert found is not None
    assert (found.step, len(found.losses)) == (2, 2)
    assert torch.equal(again["a"].detach(), kept[1])
    assert not torch.equal(kept[1], kept[2])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"state.json", "step-2.safetensors"} | (
        {"step-3.safetensors"} if refused == "write_text" else set()
    )


def test_a_disk_that_is_full_while_the_best_weights_are_written_costs_no_training(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, written = str(tiny_folder("llama")), checkpoint.write_bytes
    calm = train(TrainJob(source, base, tmp_path / "calm", RUBRIC), SMALL)
    for at in (2, 4):

        def refuse(path: Path, data: bytes, best: str = f"best-{at}.safetensors") -> None:
            if path.name == best:
                raise StorageError("the disk is full")
            written(path, data)

        job = TrainJob(source, base, tmp_path / str(at), RUBRIC)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_bytes", refuse)
            with pytest.raises(StorageError):
                train(job, SMALL)
        assert train(job, SMALL).evaluations == calm.evaluations
        names = [path / "adapter_model.safetensors" for path in (tmp_path / "calm", job.out)]
        assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize("where", ["step", "look", "update"])
def test_a_gpu_whose_memory_is_full_is_told_and_less_at_a_time_goes_on(
    where: str, source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(name: str) -> TrainJob:
        return TrainJob(source, str(tiny_folder("llama")), tmp_path / name, RUBRIC)

    fails = {"step": (_Fit, "_batch_loss"), "look": (_Fit, "_look"), "update": (torch.optim.AdamW, "step")}
    owner, method = fails[where]
    original, calls = getattr(owner, method), [0]

    def full(self: Any, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3 or (where == "look" and given == (2,)):
            for group in self.param_groups if where == "update" else []:  # a part of a step is done
                group["params"][0].data.add_(1.0)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *given)

    whole = train(job("whole"), SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, full)
        with pytest.raises(ModelError, match=r"memory was not enough at step .* lower --micro-batch-tokens"):
            train(job("cut"), SMALL)
    assert (tmp_path / "cut.run" / "state.json").is_file()
    resumed = train(job("cut"), replace(SMALL, micro_batch_tokens=100))
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-4 if not torch.cuda.is_available() else 1e-2)


def test_with_dropout_another_size_of_micro_batches_is_another_run(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC)
    dropping = replace(SMALL, dropout=0.3)
    with monkeypatch.context() as patch:
        stopped_at_the_second_look(patch)
        with pytest.raises(StopRequested):
            train(job, dropping)
    with pytest.raises(ResumeError, match="micro_batch_tokens"):
        train(job, replace(dropping, micro_batch_tokens=100))


def stopped_at_the_second_look(patch: pytest.MonkeyPatch) -> None:
    looks, look = itertools.count(), _Fit._look

    def stopped(self: _Fit, step: int) -> Evaluation:
        if next(looks):
            raise StopRequested(2)
        return look(self, step)

    patch.setattr(_Fit, "_look", stopped)


def test_a_run_without_a_step_is_in_nobodys_way(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    job = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC)
    with pytest.raises(InputError, match="9 layers are to be adapted; the model has 2"):
        train(job, replace(SMALL, layers=9))
    assert train(job, SMALL).steps > 0


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_bases_own_dropout_is_off(family: str, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    dropping = Path(shutil.copytree(tiny_folder(family), tmp_path / "dropping"))
    config = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    options = TrainOptions(batch=16, rank=4, seed=1, micro_batch_tokens=256)
    found, plain = gradient(dropping, options), gradient(tiny_folder(family), options)
    assert float((found - plain).norm() / plain.norm()) < 1e-6
    fit, _ = fitted(dropping, replace(options, dropout=0.25))  # LoRA's own is not
    shares = {m.p for m in fit._model.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert shares == {0.25}


def test_a_base_whose_tokenizer_opens_otherwise_is_another(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "base"))
    found = set()
    for opening in (True, False):
        (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": opening}))
        found.add(folder_digest(folder))
    assert len(found) == 2


def test_the_folder_one_stands_in_can_be_replaced(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL).adapter
    monkeypatch.chdir(out)
    with pytest.raises(ResumeError, match="exists already"):
        train(TrainJob(source, str(tiny_folder("llama")), Path(), RUBRIC), SMALL)
    again = train(TrainJob(source, str(tiny_folder("llama")), Path(), RUBRIC, overwrite=True), SMALL)
    assert again.adapter == out
    assert (out / "adapter_model.safetensors").is_file()


def test_why_rows_are_no_pairs_is_told(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    rows = [json.loads(json.dumps(asdict(pair))) for pair in graded_pairs()]
    bad = [row | {"query_id": f"{row['query_id']} x"} for row in rows]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    told = (
        r"none of its \d+ rows is a pair with a grade.*; the first that is no pair: .*p.jsonl, line 1: query_id 'q0 x'"
    )
    with pytest.raises(InputError, match=told):
        train(TrainJob(Source(str(path)), str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL)
    path.write_text("".join(json.dumps(row) + "\n" for row in [*bad[:2], *rows[2:]]))
    trained = train(TrainJob(Source(str(path)), str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL)
    assert trained.rejected == 2
    assert trained.rejection == f"{path}, line 1: query_id 'q0 x' " + (trained.rejection or "").partition("'q0 x' ")[2]


def test_a_grade_that_is_never_trained_is_told(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    from pairgrade.cli.train import command

    pairs = [replace(pair, grade=3 if (pair.grade or 0) > 1 else 0) for pair in graded_pairs()]
    done = run_command(
        command, write_jsonl(tmp_path / "p.jsonl", pairs), "--base", tiny_folder("llama"), "--out", tmp_path / "a",
        "--train-pairs", 16, "--validation-pairs", 8, "--epochs", 1, "--context", 400, "--threads", 1, "--quiet",
    )  # fmt: skip
    assert "No pair to train on has grade 1, 2: the input has none" in done.output


def test_a_query_that_does_not_fit_is_told_with_its_pair(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    pairs = [replace(pair, query=pair.query + " and" * 400) for pair in graded_pairs()]
    job = TrainJob(
        Source(str(write_jsonl(tmp_path / "p.jsonl", pairs))), str(tiny_folder("llama")), tmp_path / "a", RUBRIC
    )
    told = r"pair \(q\d, d\d\): the query takes \d+ tokens; .* leaves 0 of the 400 .*give a larger --context"
    with pytest.raises(InputError, match=told):
        train(job, replace(SMALL, context=400))


def test_logits_that_are_not_finite_are_told(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairgrade.train.loop.predict", lambda model, rows, *_: np.full((len(rows), 4), np.nan))
    with pytest.raises(ModelError, match="after 0 steps the model's logits are not finite"):
        train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL)


def test_a_gradient_that_is_not_finite_is_no_step(
    tmp_path: Path, source: Source, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _Fit._batch_loss

    def spoilt(self: _Fit, step: int) -> float:
        loss = original(self, step)
        if step == 1:
            next(iter(self._parameters.values())).grad.fill_(float("nan"))  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(_Fit, "_batch_loss", spoilt)
    with pytest.raises(ModelError, match="the gradient of step 2 is not finite"):
        train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), SMALL)
    assert json.loads((tmp_path / "a.run" / "state.json").read_text())["step"] == 1


def test_training_stops_where_it_grows_no_better(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    wild = replace(SMALL, epochs=20, learning_rate=0.9, warmup=0.0, evaluate_every=1, patience=2)
    trained = train(TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), wild)
    assert trained.stopped_early
    assert trained.steps == trained.best.step + 2 < 40
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert (report["stopped_early"], report["steps"]) == (True, trained.steps)
    after = [found.loss for found in trained.evaluations if found.step > trained.best.step]
    assert len(after) == 2
    assert min(after) >= trained.best.loss


def test_a_run_can_be_finished_by_hand(source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    from safetensors.torch import load

    class Stop(TrainProgress):
        steps = 0

        def step(self, loss: float) -> None:
            self.steps += 1
            if self.steps in (1, 3):
                raise KeyboardInterrupt

    base, stop = str(tiny_folder("llama")), Stop()
    job, looked = TrainJob(source, base, tmp_path / "a", RUBRIC), replace(SMALL, epochs=4)
    finish = replace(job, finish=True)
    with pytest.raises(ResumeError, match=r"a\.run holds no step that was looked at"):
        train(finish, looked)
    assert not (tmp_path / "a.run").exists()
    with pytest.raises(KeyboardInterrupt):
        train(job, looked, stop)  # in the first step, before a look at one
    with pytest.raises(ResumeError, match=r"holds no step that was looked at"):
        train(finish, looked)
    with pytest.raises(KeyboardInterrupt):
        train(job, looked, stop)
    kept = (tmp_path / "a.run" / "best-2.safetensors").read_bytes()
    with pytest.raises(ResumeError, match=r"an unfinished run of another job: .*; give the options of that run"):
        train(replace(finish, overwrite=True), SMALL)  # which must not remove what there is
    trained = train(finish, looked)
    assert (trained.steps, trained.best.step, trained.stopped_early) == (3, 2, True)
    weights, best = load((tmp_path / "a" / "adapter_model.safetensors").read_bytes()), load(kept)
    names = {name: name.replace(".weight", ".default.weight") for name in weights}  # as peft has them in memory
    assert all(torch.equal(tensor, best[names[name]]) for name, tensor in weights.items())
    assert json.loads((tmp_path / "a" / "report.json").read_text())["stopped_early"] is True
    assert not (tmp_path / "a.run").exists()


def test_best_weights_without_their_state_do_not_count(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(SMALL, epochs=4, learning_rate=1e-3)  # the loss falls from look to look
    job, original = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), Checkpoints.save

    def killed(self: Checkpoints, state: State, *given: Any) -> None:
        if state.best is not None and state.best.step == 4:
            raise SystemExit
        original(self, state, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(SystemExit):
            train(job, options)
    kept = (tmp_path / "a.run" / "best-2.safetensors").read_bytes()
    assert kept != (tmp_path / "a.run" / "best-4.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        loaded: list[int] = []
        best = Checkpoints.load_best
        patch.setattr(Checkpoints, "load_best", lambda self, p, step: loaded.append(step) or best(self, p, step))
        assert train(replace(job, finish=True), options).best.step == 2
    assert loaded == [2]


def test_looks_and_the_time_of_all_processes_are_told(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    class Told(TrainProgress):
        def __init__(self) -> None:
            self.looks: list[tuple[int, int]] = []
            self.steps = 0

        def looking(self, done: int, total: int) -> None:
            self.looks.append((done, total))

        def step(self, loss: float) -> None:
            self.steps += 1
            if self.steps == 3:
                raise KeyboardInterrupt

    job, told = TrainJob(source, str(tiny_folder("llama")), tmp_path / "a", RUBRIC), Told()
    options = replace(SMALL, micro_batch_tokens=40)
    with pytest.raises(KeyboardInterrupt):
        train(job, options, told)
    half = len(told.looks) // 2  # one before the first step, and one after the second
    assert told.looks[:half] == told.looks[half:]
    done = [done for done, _ in told.looks[:half]]
    assert (sorted(set(done)), done[-1], len(done) > 2) == (done, 8, True)
    state = tmp_path / "a.run" / "state.json"
    table = json.loads(state.read_text())
    assert 0 < table["seconds"] < 500
    state.write_text(json.dumps(table | {"seconds": 5000.0}))
    assert 5000 < train(job, options).seconds < 5500
    assert json.loads((tmp_path / "a" / "report.json").read_text())["seconds"] > 5000


def test_a_look_is_logged_with_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), TerminalTrainProgress() as progress:
        progress.start(10, 4)
        for _ in range(3):
            progress.step(1.0)
        progress.looking(3, 8)
        progress.evaluated(Evaluation(7, 0.9, 0.1, 0.3, 0.5, ()))
    (line,) = caplog.messages
    assert re.fullmatch(r"step 7 of 10: .*0\.9.*; about \d+:\d\d:\d\d left", line)


@pytest.mark.parametrize(("every", "stopped"), [(2, 2), (100, 4)])
def test_a_look_that_was_stopped_is_made_by_the_next_run(
    every: int, stopped: int, source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options, look = replace(SMALL, learning_rate=5e-2, evaluate_every=every), _Fit._look

    def interrupted(self: _Fit, step: int) -> Evaluation:
        if step == stopped:
            raise StopRequested(2)  # what a signal during the look raises
        return look(self, step)

    def job(name: str) -> TrainJob:
        return TrainJob(source, str(tiny_folder("llama")), tmp_path / name, RUBRIC)

    whole = train(job("whole"), options)
    with monkeypatch.context() as patch:
        patch.setattr(_Fit, "_look", interrupted)
        with pytest.raises(StopRequested):
            train(job("cut"), options)
    resumed = train(job("cut"), options)
    assert resumed.evaluations == whole.evaluations
    assert resumed.best == whole.best


def test_nothing_but_an_adapter_is_replaced(source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    job = TrainJob(source, str(tiny_folder("llama")), tmp_path / "mine", RUBRIC, overwrite=True)
    with pytest.raises(ModelError, match="is not an adapter of `pairgrade train`"):
        train(job, SMALL)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_base_that_cannot_be_exported_is_told_before_the_training(
    source: Source, tmp_path: Path, tiny_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    from pairgrade.cli.merge import command

    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "biased"))
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.attention_bias = True
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    train(TrainJob(source, str(folder), tmp_path / "a", RUBRIC), SMALL)
    (told,) = (r.getMessage() for r in caplog.records if "not exported" in r.getMessage())
    assert "a llama model with biases" in told
    done = run_command(command, tmp_path / "a", "--out", tmp_path / "m", "--sample", 2)
    assert "not exported: " in done.output
    assert "next: pairgrade export" not in done.output
