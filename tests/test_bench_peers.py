import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import LlamaOptions, ModelError, Pair, Rubric
from pairgrade.annotator import Annotator
from pairgrade.bench import cell, peers
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.cell_records import CellJob, CellRun
from pairgrade.bench.matrix import ENGINES
from pairgrade.bench.peers import PEERS, not_measured, open_peer, parsed
from pairgrade.bench.peers_prompts import NEW_TOKENS, folder_prompts
from pairgrade.bench.peers_transformers import padding_id
from pairgrade.qrels import read_qrels

PAIRS = make_pairs(2, 3)


def job(model: object, engine: str, folder: Path, context: int = 1024) -> CellJob:
    return CellJob(str(model), engine, "trec", 1, 2048, context, str(folder / "pairs.jsonl"), str(folder / "out.qrels"))


def grades(model: object, engine: str, folder: Path) -> tuple[CellRun, dict[tuple[str, str], int]]:
    write_jsonl(folder / "pairs.jsonl", PAIRS)
    run = measure_cell(job(model, engine, folder))
    found = {(qrel.query_id, qrel.doc_id): qrel.grade for qrel in read_qrels(folder / "out.qrels")}
    assert run.pairs - run.unparsed == len(found) > 0
    assert run.documents_seconds is None  # it does not tell
    return run, found


def test_the_tokens_are_those_of_the_pairs_that_got_a_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        process = None

        def answers(self, pairs: Sequence[Pair]) -> list[str]:
            return ["2" if pair.doc_id.endswith("0") else "well" for pair in pairs]

        def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
            return 10 * len(pairs)

        def why_unfit(self, pair: Pair) -> str | None:
            return None

        def identity(self) -> dict[str, str]:
            return {}

        def close(self) -> None:
            pass

    monkeypatch.setattr(peers, "open_peer", lambda job: Silent())
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    run = cell._peer(job("any", "transformers", tmp_path), PAIRS)
    assert (run.pairs, run.unparsed, run.prompt_tokens) == (2, 4, 20)


@pytest.fixture
def prompts(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> list[list[int]]:
    folder = tiny_folder("qwen2")
    return list(folder_prompts(job(folder, "transformers", tmp_path), folder).ids(PAIRS))


def spell(folder: Path, tmp_path: Path, ids: list[int]) -> list[str]:
    own = folder_prompts(job(folder, "transformers", tmp_path), folder)
    return [own.text([token]) for token in ids]


@pytest.mark.parametrize(
    ("text", "grade"), [("2", 2), (" 3\n", 3), ("0, because", 0), ("", None), ("four", None), ("-1", None)]
)
def test_an_answer_begins_with_a_label_word_or_has_no_grade(text: str, grade: int | None) -> None:
    assert parsed(text, Rubric.load("trec")) == grade


@pytest.mark.parametrize(("pad", "end", "found"), [(None, [7, 8], 7), (0, 5, 0), (None, 3, 3), (None, None, 0)])
def test_short_prompts_are_filled_up_with_a_token_of_the_model(pad: int | None, end: object, found: int) -> None:
    assert padding_id(SimpleNamespace(pad_token_id=pad, eos_token_id=end)) == found


def test_every_engine_is_known_and_those_left_out_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"pairgrade", *PEERS} == set(ENGINES)
    assert not_measured(ENGINES) == {}
    left_out = not_measured(["pairgrade", "transformers"])
    assert set(left_out) == set(PEERS) - {"transformers"}
    assert left_out["llama-cpp-python"] == "not asked for"
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not_measured([])["llama-cpp-python"] == "not installed; run: pip install llama-cpp-python"
    with pytest.raises(ModelError, match="vllm is not installed; run: pip install vllm"):
        open_peer(CellJob("m", "vllm", "trec", 1, 2048, 1024, "", ""))


def test_cut_documents_are_cut_as_by_pairgrade(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    pytest.importorskip("torch")
    from pairgrade.export.measure import Task, prompts_of
    from pairgrade.export.torch_backend import TorchBackend, TorchOptions

    folder = tiny_folder("qwen2")
    long = [replace(pair, document=pair.document * 20) for pair in PAIRS]
    backend = TorchBackend(folder, TorchOptions(context=600, threads=1))
    ours = [prompt.ids.tolist() for prompt in prompts_of(backend, Task(long, Rubric.load("trec")))[1].values()]
    assert {len(ids) for ids in ours} == {600}
    assert list(folder_prompts(job(folder, "transformers", tmp_path, 600), folder).ids(long)) == ours


def test_transformers_gives_the_same_grades_alone_and_in_batches(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    pytest.importorskip("transformers")
    pairs = make_pairs(3, 4)
    folder = tiny_folder("qwen2")
    one = open_peer(job(folder, "transformers", tmp_path))
    many = open_peer(job(folder, "transformers-batched", tmp_path))
    answers = one.answers(pairs)
    assert answers == many.answers(pairs)
    assert len(set(answers)) > 1
    assert one.prompt_tokens(pairs) == many.prompt_tokens(pairs) > 12 * 50
    kinds = [peer.identity() for peer in (one, many)]
    assert kinds[0].pop("kind") != kinds[1].pop("kind")
    assert kinds[0] == kinds[1]
    assert (kinds[0]["rubric"], kinds[0]["chat"]) == (Rubric.load("trec").digest, "chatml")
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert one.identity()["model_sha256"] != kinds[0]["model_sha256"]


def test_a_query_that_does_not_fit_ends_no_other_engines_cell(
    tmp_path: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    peer: Any = open_peer(job(tiny_folder("qwen2"), "transformers", tmp_path))
    peer.answers = lambda asked: ["1"] * len(list(peer.prompts.ids(asked)))  # a tiny model answers no label word
    monkeypatch.setattr(peers, "open_peer", lambda job: peer)
    pairs = [replace(pair, query=pair.query * 200) if pair.query_id == "q1" else pair for pair in PAIRS]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    run = cell.run_cell(job("any", "transformers", tmp_path))
    assert (run.pairs, run.unparsed) == (3, 3)
    assert {qrel.query_id for qrel in read_qrels(tmp_path / "out.qrels")} == {"q0"}
    write_jsonl(tmp_path / "pairs.jsonl", pairs[3:])
    with pytest.raises(ModelError, match="none of 3 pairs fits: the query takes"):
        cell.run_cell(job("any", "transformers", tmp_path))


def eight_bits(model: Path, folder: Path) -> Path:
    """OpenVINO gives other answers for the Q4_1 file itself."""
    from pairgrade.export.gguf_writer import write_gguf
    from pairgrade.export.quantize import QUANTS, quantize
    from pairgrade.train.dequantize import dequantize

    write_gguf(dequantize(model, folder / "model"), folder / "f32.gguf")
    quantize(folder / "f32.gguf", folder / "q8_0.gguf", QUANTS["q8_0"], threads=1)
    return folder / "q8_0.gguf"


@pytest.mark.model
@pytest.mark.parametrize("engine", ["llama-cpp-python", "llama-server", "openvino-genai"])
def test_a_peer_of_a_gguf_agrees_where_its_answer_is_a_grade(tmp_path: Path, smollm2_path: Path, engine: str) -> None:
    reason = PEERS[engine].absent()
    if reason:
        pytest.skip(f"{engine} is {reason}")
    model = eight_bits(smollm2_path, tmp_path) if engine == "openvino-genai" else smollm2_path
    _, found = grades(model, engine, tmp_path)
    with Annotator.open(model, llama=LlamaOptions(context=1024, threads=1)) as annotator:
        ours = {(j.query_id, j.doc_id): j for j in annotator.label(PAIRS)}
    for pair, grade in found.items():  # its logits differ in the last digits
        assert ours[pair].probabilities[grade] > max(ours[pair].probabilities) - 0.02


def test_onnxruntime_genai_gives_the_answers_of_transformers(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    pytest.importorskip("onnxruntime_genai")
    folder, built = tiny_folder("qwen2"), tmp_path / "built"
    settings = ["-i", folder, "-o", built, "-p", "fp32", "-e", "cpu", "-c", tmp_path / "cache"]
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", *settings], check=True, capture_output=True
    )
    genai = open_peer(job(built, "onnxruntime-genai", tmp_path))
    answers = genai.answers([*PAIRS, PAIRS[0]])  # the last after another prefix was held
    assert answers[0] == answers[-1]
    expected = open_peer(job(folder, "transformers", tmp_path)).answers(PAIRS)
    assert [text for text, whole in zip(answers, expected, strict=False) if not whole.startswith(text)] == []


def test_onnxruntime_genai_keeps_the_common_prefix(
    tmp_path: Path, tiny_folder: Callable[[str], Path], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    computed: list[int] = []
    overlay: dict[str, Any] = {}

    class Generator:
        def __init__(self, model: object, params: object) -> None: ...

        def rewind_to(self, length: int) -> None:
            del held[length:]

        def append_tokens(self, tokens: Any) -> None:
            computed.append(len(tokens))
            held.extend(tokens.tolist())

        def generate_next_token(self) -> None:
            assert held == prompts[len(computed) - 1]
            held.append(40 + len(computed))

        def get_next_tokens(self) -> Any:
            return np.array(held[-1:])

    module = SimpleNamespace(
        Config=lambda path: SimpleNamespace(overlay=lambda text: overlay.update(json.loads(text))),
        Model=lambda config: "model",
        GeneratorParams=lambda model: SimpleNamespace(set_search_options=lambda **options: overlay.update(options)),
        Generator=Generator,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", module)
    from pairgrade.bench.peers_genai import OnnxGenai

    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_folder("qwen2").glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "genai_config.json").touch()
    answers = OnnxGenai(job(folder, "onnxruntime-genai", tmp_path)).answers(PAIRS)
    assert answers == spell(folder, tmp_path, [41, 42, 43, 44, 45, 46])
    assert sum(computed) < sum(map(len, prompts)) / 2
    assert overlay["model"]["decoder"]["session_options"]["intra_op_num_threads"] == 1
    assert overlay["max_length"] == 1024 + NEW_TOKENS
    assert overlay["do_sample"] is False


def test_openvino_genai_is_asked_for_one_greedy_token_with_a_cache(
    tmp_path: Path, tiny_folder: Callable[[str], Path], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[int], object]] = []
    opened: dict[str, Any] = {}

    class Pipeline:
        def __init__(self, path: str, device: str, **options: object) -> None:
            opened.update(options, path=path, device=device)

        def generate(self, ids: Any, config: object) -> object:
            asked.append((ids[0].tolist(), config))
            return SimpleNamespace(tokens=[[40 + len(asked)]])

    module = SimpleNamespace(SchedulerConfig=SimpleNamespace, GenerationConfig=SimpleNamespace, LLMPipeline=Pipeline)
    monkeypatch.setitem(sys.modules, "openvino_genai", module)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Tensor=lambda array: array))
    from pairgrade.bench.peers_openvino import OpenVinoGenai

    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_folder("qwen2").glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"folders with openvino_model\.xml"):
        OpenVinoGenai(job(folder, "openvino-genai", tmp_path))
    (folder / "openvino_model.xml").touch()
    answers = OpenVinoGenai(job(folder, "openvino-genai", tmp_path)).answers(PAIRS)
    assert answers == spell(folder, tmp_path, [41, 42, 43, 44, 45, 46])
    assert [ids for ids, _ in asked] == prompts
    assert vars(asked[0][1]) == {"max_new_tokens": 1, "do_sample": False, "ignore_eos": True}
    assert opened["scheduler_config"].enable_prefix_caching is True
    assert opened["INFERENCE_NUM_THREADS"] == 1


def test_vllm_is_given_all_prompts_as_ids(
    tmp_path: Path, tiny_folder: Callable[[str], Path], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Llm:
        def __init__(self, **options: object) -> None:
            asked.update(options)

        def generate(self, given: Any, sampling: Any, use_tqdm: bool) -> list[object]:
            asked.update(prompts=[prompt["prompt_token_ids"] for prompt in given], sampling=sampling)
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[41 + i])]) for i in range(len(given))]

    module = SimpleNamespace(LLM=Llm, SamplingParams=lambda **options: options)
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "?")  # put back afterwards
    from pairgrade.bench.peers_vllm import Vllm

    folder = tiny_folder("qwen2")
    peer = Vllm(job(folder, "vllm", tmp_path))
    answers = peer.answers(PAIRS)
    peer.close()
    assert answers == spell(folder, tmp_path, [41, 42, 43, 44, 45, 46])
    assert asked["prompts"] == prompts
    assert asked["sampling"] == {"temperature": 0.0, "max_tokens": 1, "detokenize": False}
    assert asked["model"] == str(folder)
    assert (os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"], os.environ["VLLM_NO_USAGE_STATS"]) == ("0", "1")
    assert asked["trust_remote_code"] is False
    assert asked["enable_prefix_caching"] is True
    assert asked["max_model_len"] == 1024 + NEW_TOKENS


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("llama-cpp-python", "this model is a folder"),
        ("llama-server", "this model is a folder"),
        ("onnxruntime-genai", "make one by: python -m onnxruntime_genai"),
    ],
)
def test_a_model_that_a_peer_cannot_run_is_told(
    tmp_path: Path, engine: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 1))
    monkeypatch.setenv("PAIRGRADE_LLAMA_SERVER", sys.executable)
    with pytest.raises(ModelError, match=told):
        PEERS[engine].open(job(tmp_path, engine, tmp_path))
