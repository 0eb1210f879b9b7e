import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_results import make_cell, make_result
from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, InputError, ModelError, Pair, PairgradeError, Qrel, Rubric
from pairgrade.bench.ceiling import Ceiling
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.judged import Judged, against_people, read_judged
from pairgrade.bench.meters import EnergyMeter, LoadMeter
from pairgrade.bench.peers_prompts import PromptedPeer
from pairgrade.bench.report_folder import write_report
from pairgrade.bench.results import load_result
from pairgrade.cli.bench import command
from pairgrade.fake import FakeTokenizer
from pairgrade.llama_model import library
from pairgrade.prompt import PromptBuilder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    pairs = write_jsonl(folder / "pairs.jsonl", make_pairs(6, 4))
    run_command(
        command, "--model", "fake:", "--model", "fake:0.01", "--model", "gone.gguf", "--reference", "fake:0",
        "--pairs", pairs, "--threads", 1, "--rounds", 2, "--usd-per-hour", 0.36, "--out", folder / "out", "--quiet",
    )  # fmt: skip
    return folder / "out"


@pytest.fixture(autouse=True)
def _known_ceiling(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the ceiling once, for the report."""
    monkeypatch.setattr("pairgrade.bench.benchmark.measure_ceiling", lambda threads: Ceiling(threads, 100, 200, 10))


@pytest.mark.parametrize(("planned", "computed"), [(2048, 512), (300, 300)])
def test_what_an_onnx_model_computes_at_once_is_recorded(
    planned: int, computed: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx_helpers import export
    from pairgrade.bench.cell import run_cell

    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 3))
    folder = export(tiny_folder("llama"), tmp_path / "onnx", "fp32")
    job = CellJob(str(folder), "pairgrade", "trec", 1, planned, 1024, str(pairs), str(tmp_path / "out.jsonl"))
    identity = run_cell(job).identity
    assert identity is not None
    assert identity["backend.batch_tokens"] == str(computed)


def test_what_a_gpu_is_to_do_reaches_the_engine(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from pairgrade.export.gguf_writer import write_gguf

    write_gguf(tiny_folder("qwen2"), tmp_path / "tiny.gguf")
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3))
    base = (command, "--model", tmp_path / "tiny.gguf", "--pairs", pairs, "--threads", 1, "--rounds", 1, "--json")
    table = json.loads(run_command(*base, "--sequences", 2).stdout)
    assert table["cells"][0]["identity"]["backend.sequences"] == "2"
    assert table["settings"]["sequences"] == 2
    if not library().llama_supports_gpu_offload():
        for engine in ("pairgrade", "llama-cpp-python"):
            with pytest.raises(ModelError, match=r"llama\.cpp sees no GPU"):
                run_command(*base, "--engine", engine, "--gpu-layers", -1)


def test_json_and_csv_agree(report: Path) -> None:
    cells = json.loads((report / "results.json").read_text())["cells"]
    rows = list(csv.DictReader(io.StringIO((report / "cells.csv").read_text())))
    assert [row["name"] for row in rows] == [cell["name"] for cell in cells] == ["fake:", "fake:0.01", "fake:0"]
    compared = 0
    for row, cell in zip(rows, cells, strict=True):
        for name, text in row.items():
            group, _, rest = name.partition(".")
            value = cell[group]
            if isinstance(value, dict):  # identity's own keys hold dots
                value = value[rest] if rest in value else value[rest.partition(".")[0]][rest.partition(".")[2]]
            assert text == ("" if value is None else str(value)), name
            compared += 1
    assert compared > 100


def test_dollars_follow_from_the_rate(report: Path) -> None:
    for cell in load_result(report / "results.json").cells:
        rate = cell.pairs_per_second.median
        assert cell.usd_per_million_pairs == pytest.approx(0.36 / 3600 / rate * 1e6)
        assert cell.pairs_per_usd == pytest.approx(1e6 / (cell.usd_per_million_pairs or 0))


def test_the_ceiling_is_the_highest_of_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Ceiling(1, 100, None, 30), Ceiling(1, 90, 200, 10)]
    monkeypatch.setattr("pairgrade.bench.benchmark.measure_ceiling", lambda threads: found.pop(0))
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 2))
    table = json.loads(
        run_command(command, "-m", "fake:", "--pairs", pairs, "--threads", 1, "--rounds", 1, "--json").stdout
    )
    assert table["ceilings"] == [{"threads": 1, "fp32_gflops": 100, "int8_gops": 200, "copy_gb_per_second": 30}]
    assert not found


def test_the_parts_add_up_and_the_delay_is_found_in_the_documents(report: Path) -> None:
    fast, slow, _ = load_result(report / "results.json").cells
    names = ("read", "tokenize", "prefix", "documents", "write", "other")
    parts = [sum(getattr(cell, f"{name}_seconds") for name in names) for cell in (fast, slow)]
    assert parts == pytest.approx([fast.total_seconds, slow.total_seconds], rel=0.2)  # medians do not add up exactly
    assert slow.documents_seconds == pytest.approx(24 * 0.01)
    assert slow.total_seconds - fast.total_seconds > 0.8 * 24 * 0.01
    assert slow.first_seconds > slow.load_seconds


def test_agreement_is_that_of_the_judgments(report: Path, tmp_path: Path) -> None:
    from pairgrade.agreement import AgreementOptions, agreement

    pairs = make_pairs(6, 4)
    with Annotator.open("fake:") as annotator:
        judgments = list(annotator.label(pairs))
    expected = agreement(
        [p.query_id for p in pairs], [p.grade or 0 for p in pairs], [j.grade for j in judgments],
        [j.expected_grade for j in judgments], grades=(0, 1, 2, 3), options=AgreementOptions(resamples=0),
    )  # fmt: skip
    cell = load_result(report / "results.json").cells[0]
    for name in ("kappa", "quadratic_kappa", "tau_b", "auc"):
        assert cell.agreement[name].value == pytest.approx(expected.statistics[name].value)
    assert cell.reference_agreement == 1.0
    assert cell.reference_kl == 0.0


def test_grades_alone_are_not_ranked() -> None:
    pairs = make_pairs(6, 4)
    grades = tuple(Qrel(p.query_id, p.doc_id, 3 - (p.grade or 0)) for p in pairs)
    assert set(against_people(Judged(grades, (0, 1, 2, 3)), pairs, 0)) == {"kappa", "quadratic_kappa"}


def test_what_cannot_be_measured_has_a_reason(report: Path) -> None:
    skipped = load_result(report / "results.json").skipped
    assert "no model file gone.gguf" in skipped["gone"]
    assert skipped["vllm"]


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    page = (report / "report.html").read_text()
    links = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)""", page)
    assert links == []
    assert page.lower().count("<!doctype") == 1
    assert page.count("<svg") == len(list(report.glob("*.png"))) >= 4
    for name in ("fake:0.01", "no model file gone.gguf", "sha256"):
        assert name in page


def test_equal_results_give_equal_reports(tmp_path: Path) -> None:
    cells = [make_cell("a<b>|c", [2.0, 2.1, 2.2], 0.4), make_cell("d", [1.0, 1.1, 1.2], 0.2, dominated=True)]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_report(make_result(cells), folder)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name
    assert "a&lt;b&gt;|c" in (folders[0] / "report.html").read_text()
    assert load_result(folders[0] / "results.json") == make_result(cells)


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 1))
    with pytest.raises(ModelError, match=r"no model file gone\.gguf"):
        run_command(command, "--model", "gone.gguf", "--pairs", pairs, "--rounds", 1)
    with pytest.raises(InputError, match="no model is named"):
        run_command(command)


def test_what_cannot_work_is_told_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pairgrade.bench import benchmark

    monkeypatch.setattr(benchmark, "measure_cell", lambda job: pytest.fail("it measures"))
    pairs = make_pairs(2, 3)
    write_jsonl(tmp_path / "p.jsonl", pairs)
    write_jsonl(tmp_path / "far.jsonl", [*pairs, replace(pairs[0], doc_id="far", grade=5000)])
    (tmp_path / "file").touch()
    base = (command, "--model", "fake:", "--threads", 1, "--pairs")
    with pytest.raises(InputError, match=r"file/x cannot be made: Not a directory; name another folder by --out"):
        run_command(*base, tmp_path / "p.jsonl", "--out", tmp_path / "file" / "x")
    with pytest.raises(InputError, match="the grades run from 0 to 5000; they may be 1,000 apart at most"):
        run_command(*base, tmp_path / "far.jsonl")


def test_a_measure_that_is_not_known_is_told_and_prices_do_not_hang_on_the_order(tmp_path: Path) -> None:
    pairs = [replace(pair, grade=min(1, pair.grade or 0)) for pair in make_pairs(3, 4)]
    write_jsonl(tmp_path / "p.jsonl", pairs)
    base = (command, "--pairs", tmp_path / "p.jsonl", "--threads", 1, "--rounds", 1, "--json", "--measure", "auc")
    costs = []
    for models in (("fake:", "fake:0.001"), ("fake:0.001", "fake:")):
        table = json.loads(run_command(*base, "--model", models[0], "--model", models[1]).stdout)
        costs.append([api["usd_per_million_pairs"] for api in table["apis"]])
        told = [note for note in table["notes"] if note.startswith("No frontier")]
        assert told == [
            "No frontier: the AUC of no cell is known on these pairs; --measure can be "
            f"{', '.join(sorted(n for n, v in table['cells'][0]['agreement'].items() if v['value'] is not None))}."
        ]
        assert any(note.startswith("Hosted models: the price of ") for note in table["notes"])
    assert costs[0] == costs[1]


def test_texts_without_pairs_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--queries, --docs is of the ids in --pairs; give --pairs too"):
        run_command(command, "--model", "fake:", "--queries", tmp_path / "q.jsonl", "--docs", tmp_path / "d.jsonl")


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
def test_an_interrupted_benchmark_tells_its_whole_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pairgrade.bench import benchmark

    jobs: list[CellJob] = []

    def measure(job: CellJob) -> object:
        jobs.append(job)
        if len(jobs) == 4:  # in the middle of the second round
            os.kill(os.getpid(), signal.SIGINT)
        return measure_cell(job)

    monkeypatch.setattr(benchmark, "measure_cell", measure)
    pairs = write_jsonl(tmp_path / "p.jsonl", make_pairs(2, 3))
    done = run_command(
        command, "--model", "fake:", "--model", "fake:0.001", "--pairs", pairs, "--threads", 1, "--json",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 128 + signal.SIGINT
    table = json.loads(done.stdout)
    assert [len(cell["pairs_per_second"]["values"]) for cell in table["cells"]] == [1, 1]
    assert (table["rounds"], table["stopped"]) == (1, "stopped by SIGINT")
    assert "stopped by SIGINT; the rounds before it are what is told" in done.stderr
    assert load_result(tmp_path / "out" / "results.json").rounds == 1

    def read(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return read_judged(*arguments)

    jobs.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "read_judged", read)  # behind the rounds
        done = run_command(command, "--model", "fake:", "--pairs", pairs, "--threads", 1, "--rounds", 2, "--json")
    assert done.exit_code == 128 + signal.SIGTERM
    table = json.loads(done.stdout)
    assert (table["rounds"], len(table["cells"])) == (2, 1)
    assert "stopped by SIGTERM; the rounds before it are what is told" in done.stderr
    jobs[:] = jobs[:1] * 3  # so that the next one is the fourth
    out = "--out", tmp_path / "none" / "of" / "these"
    done = run_command(command, "--model", "fake:", "--pairs", pairs, "--threads", 1, *out)
    assert done.exit_code == 128 + signal.SIGINT
    assert "stopped by SIGINT; nothing was kept" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_dollar_is_no_tex_and_a_picture_without_figures_goes(tmp_path: Path) -> None:
    names = ("q8_$5_vs_$10", "a$x_y$")
    result = make_result([make_cell(name, [4.0, 4.1, 3.9], kappa=0.3) for name in names])
    assert (tmp_path / "o" / "frontier.png") in write_report(result, tmp_path / "o")
    text = (tmp_path / "o" / "report.html").read_text()
    assert all(text.count(name) > 1 for name in names)
    other = replace(result, cells=tuple(replace(cell, agreement={}) for cell in result.cells))
    assert (tmp_path / "o" / "frontier.png") not in write_report(other, tmp_path / "o")
    assert not (tmp_path / "o" / "frontier.png").exists()
    assert (tmp_path / "o" / "throughput.png").exists()


def test_memory_is_that_of_the_cell_not_of_what_started_it(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 2))
    ballast = np.ones(300 * 2**20, np.uint8)
    run = measure_cell(CellJob("fake:", "pairgrade", "trec", 1, 2048, 1024, str(pairs), str(tmp_path / "o.jsonl")))
    assert ballast.nbytes > run.peak_rss_bytes > 10 * 2**20


def test_pairs_without_a_grade_count_in_no_rate(tmp_path: Path) -> None:
    pairs = make_pairs(2, 8)
    unfit = [replace(pair, query_id="long", query="word " * 3000) for pair in pairs[:8]]
    write_jsonl(tmp_path / "p.jsonl", [*pairs, *unfit])  # the last ones, which warm the model up, do not fit
    job = CellJob("fake:", "pairgrade", "trec", 1, 2048, 1024, str(tmp_path / "p.jsonl"), str(tmp_path / "o.jsonl"))
    run = measure_cell(job)
    assert (run.pairs, run.unparsed) == (16, 8)
    write_jsonl(tmp_path / "p.jsonl", unfit)
    with pytest.raises(PairgradeError, match="none of 8 pairs got a grade"):
        measure_cell(replace(job, out=str(tmp_path / "other.jsonl")))


def test_agreement_is_absent_where_no_judged_pair_was_graded() -> None:
    pairs = make_pairs(1, 2)
    judged = Judged((Qrel(pairs[0].query_id, pairs[0].doc_id, 1),), (0, 1, 2, 3))
    assert against_people(judged, [replace(pairs[0], grade=None), pairs[1]], resamples=0) == {}


def test_a_human_grade_off_the_scale_ends_no_benchmark() -> None:
    pairs = make_pairs(6, 4)
    with Annotator.open("fake:") as annotator:
        judged = Judged(tuple(annotator.label(pairs)), (0, 1, 2, 3))
    assert "calibrated_kappa" in against_people(judged, pairs, resamples=0)
    odd = [replace(pairs[0], grade=-1), *pairs[1:]]  # some collections grade so what is spam
    assert set(against_people(judged, odd, resamples=0)) == {"kappa", "quadratic_kappa", "tau_b", "auc"}


def test_energy_is_absent_or_the_counters_difference(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules() is None
    zones = {"intel-rapl:0": 5_000_000, "intel-rapl:0:0": 1, "intel-rapl:1": 99_000_000, "intel-rapl:2": 7}
    kinds = ("package-0", "core", "package-1", "psys")  # the last is the whole platform
    for (name, start), kind in zip(zones.items(), kinds, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{kind}\n")
        (tmp_path / name / "energy_uj").write_text(f"{start}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("100000000\n")
    meter = EnergyMeter(tmp_path)
    assert meter.joules() is None  # counters that stand still
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("7500000\n")
    assert meter.joules() is None  # one of them does
    (tmp_path / "intel-rapl:2" / "energy_uj").write_text("90000000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000\n")  # went through its highest value
    assert meter.joules() == pytest.approx(2.5 + 2.0)


def test_no_measured_prompt_is_in_a_cache_when_the_clock_starts(tmp_path: Path) -> None:
    pairs = make_pairs(1, 4)
    write_jsonl(tmp_path / "p.jsonl", pairs)
    job = CellJob("fake:", "pairgrade", "trec", 1, 2048, 1024, str(tmp_path / "p.jsonl"), str(tmp_path / "o.jsonl"))
    run = measure_cell(job)
    _, query = PromptBuilder(Rubric.load("trec"), FakeTokenizer(), 1024).build(pairs[0]).prefix
    assert run.prefix_tokens == len(query) > 0  # the instruction alone is known
    assert run.bound is (sys.platform == "linux")


def test_a_peer_is_warmed_up_on_other_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pairgrade.bench import peers
    from pairgrade.bench.cell import run_cell

    pairs = make_pairs(2, 3)
    write_jsonl(tmp_path / "p.jsonl", pairs)
    seen: list[list[str]] = []

    class Peer(PromptedPeer):
        def __init__(self) -> None: ...

        def answers(self, given: list[Pair]) -> list[str]:
            seen.append([pair.document for pair in given])
            return ["1"] * len(given)

        def prompt_tokens(self, given: Sequence[Pair]) -> int:
            return 1

        def why_unfit(self, pair: Pair) -> str | None:
            return None

        def identity(self) -> dict[str, str]:
            return {}

    monkeypatch.setattr(peers, "open_peer", lambda job: Peer())
    files = str(tmp_path / "p.jsonl"), str(tmp_path / "o.qrels")
    run_cell(CellJob("fake:", "llama-cpp-python", "trec", 1, 2048, 1024, *files))
    first, warm, measured = seen
    assert (len(first), len(warm)) == (1, 4)
    assert measured == [pair.document for pair in pairs]
    assert not {*first, *warm} & set(measured)


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="reads /proc")
def test_own_work_is_no_other_load_and_that_of_others_is() -> None:
    code = (
        "import time; from pairgrade.bench.meters import LoadMeter; meter = LoadMeter(); print(flush=True); "
        "time.sleep(1); print(meter.cores())"
    )
    beside = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert beside.stdout is not None
    beside.stdout.readline()
    meter, end = LoadMeter(), time.perf_counter() + 0.9
    while time.perf_counter() < end:
        pass
    own = meter.cores()
    other = float(beside.communicate()[0])
    assert own is not None
    assert other - own > 0.05  # of a core, for this process shares them with whatever else runs
