import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_results import make_cell, make_result
from helpers import run_command
from pairgrade import InputError
from pairgrade.bench.compare import FASTER, SAME, SLOWER, UNKNOWN, compare
from pairgrade.cli.bench import command


def drawn(random: np.random.Generator, mean: float, noise: float, count: int = 5) -> list[float]:
    values: list[float] = (mean * np.exp(random.normal(0, noise, count))).tolist()
    return values


def verdict(before: list[float], after: list[float]) -> str:
    first, second = make_result([make_cell("a", before)]), make_result([make_cell("a", after)])
    return compare(first, second).changes[0].verdict


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_noise_is_no_change(noise: float) -> None:
    random = np.random.default_rng(1)
    wrong = sum(verdict(drawn(random, 4, noise), drawn(random, 4, noise)) != SAME for _ in range(400))
    assert wrong <= 0.05 * 400 + 3 * (0.05 * 0.95 * 400) ** 0.5


def test_an_injected_slowdown_is_found() -> None:
    random = np.random.default_rng(2)
    found = [verdict(drawn(random, 4, 0.02), drawn(random, 4 / 1.2, 0.02)) for _ in range(200)]
    assert found.count(SLOWER) > 195
    assert verdict([4.0, 4.1, 3.9], [5.0, 5.1, 4.9]) == FASTER
    assert verdict([4.0, 4.0, 4.0], [3.95, 3.95, 3.95]) == SAME  # less than the tolerance
    assert verdict([4.0, 4.0], [1.0, 1.0]) == UNKNOWN


def test_the_interval_is_scipys() -> None:
    from scipy.stats import ttest_ind

    before, after = [4.0, 4.3, 3.8, 4.1], [3.0, 3.3, 3.1, 3.05, 3.2]
    change = compare(make_result([make_cell("a", before)]), make_result([make_cell("a", after)])).changes[0]
    test = ttest_ind(np.log(after), np.log(before), equal_var=False).confidence_interval(0.95)
    assert change.low == pytest.approx(np.exp(test.low))
    assert change.high == pytest.approx(np.exp(test.high))


def test_cells_are_matched_by_their_settings_not_their_names() -> None:
    before = make_result([make_cell("a", [4.0] * 5), make_cell("b", [4.0] * 5)])
    after = make_result([make_cell("other name", [4.0] * 5, model="b"), make_cell("c", [4.0] * 5)])
    found = compare(before, after)
    assert [change.name for change in found.changes] == ["other name"]
    assert (found.only_before, found.only_after) == (("a",), ("c",))
    with pytest.raises(InputError, match="no cell in common"):
        compare(make_result(before.cells[:1]), make_result(after.cells[1:]))


def test_a_cell_that_can_no_longer_be_measured_fails(tmp_path: Path) -> None:
    before = make_result([make_cell("a", [4.0] * 5), make_cell("b", [4.0] * 5), make_cell("c", [4.0] * 5)])
    after = make_result([make_cell("a", [4.0] * 5), make_cell("b", [4.0] * 5)])
    after = replace(after, cells=after.cells[:1], skipped={"b": "no model file"})  # c was not asked for
    found = compare(before, after)
    assert (found.only_before, found.lost) == (("b", "c"), ("b",))
    for name, result in (("a.json", before), ("b.json", after)):
        result.save(tmp_path / name)
    done = run_command(command, "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert done.exit_code == 1
    assert "No longer measured: b\nOnly in A: c" in done.output


def test_what_makes_a_comparison_doubtful_is_told() -> None:
    calm = make_result([make_cell("a", [4.0] * 5)])
    assert compare(calm, calm).warnings == ()
    other = make_result([make_cell("a", [4.0] * 5, other_load=1.9, identity={"kind": "fake", "model": "another"})])
    busy, changed = compare(calm, other).warnings
    assert "up to 1.9 cores busy after" in busy
    assert changed == "a is not the same in model"
    told = {"kind": "fake", "model_sha256": "0", "rubric": "1", "chat": "plain"}  # which results of before do not tell
    assert compare(calm, make_result([make_cell("a", [4.0] * 5, identity=told)])).warnings == ()


def test_the_exit_code_tells_a_slower_cell(tmp_path: Path) -> None:
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, rate in zip(paths, (4.0, 3.0), strict=True):
        make_result([make_cell("a", [rate, rate * 1.01, rate * 0.99, rate, rate])]).save(path)
    slower = run_command(command, "compare", *paths)
    assert slower.exit_code == 1
    assert "slower" in slower.output
    assert run_command(command, "compare", *paths[::-1]).exit_code == 0
    assert run_command(command, "compare", paths[0], paths[0]).exit_code == 0


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    make_result([make_cell("a", [4.0])]).save(path)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(InputError, match="of schema 99"):
        run_command(command, "compare", path, path)
    path.write_text("{}")
    with pytest.raises(InputError, match="no result of"):
        run_command(command, "compare", path, path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t["cells"][0]["pairs_per_second"].update(values=[0.0, 1.0]), "its rates are"),
        (lambda t: t["cells"][0]["pairs_per_second"].update(values=[]), "its rates are"),
        (lambda t: t["cells"][0]["pairs_per_second"].update(median=0.0), "the median is 0"),
        (lambda t: t["cells"][0].update(peak_rss_bytes=0), "peak_rss_bytes is 0"),
        (lambda t: t["cells"][0].update(total_seconds=0.0), "total_seconds is 0"),
        (lambda t: t["cells"][0].update(gops=float("nan")), "infinite or not a number"),
        (lambda t: t["cells"][0].update(agreement={"kappa": {"value": float("inf")}}), "infinite or not a number"),
        (lambda t: t.update(cells=[]), "it holds no cell"),
        (lambda t: t.update(settings={}), "settings.models"),
        (lambda t: t.update(data={}), "data.pairs"),
        (lambda t: t.update(environment={}), "environment.cpu"),
        (lambda t: t.update(usd_per_hour=-1.0), "usd_per_hour is -1"),
    ],
)
def test_figures_that_cannot_be_are_damage(tmp_path: Path, change: Callable[[Any], None], told: str) -> None:
    table = make_result([make_cell("a", [4.0, 4.1, 4.2], kappa=0.3)]).to_dict()
    change(table)
    (tmp_path / "r.json").write_text(json.dumps(table))
    for words in (("compare", tmp_path / "r.json", tmp_path / "r.json"), ("report", tmp_path / "r.json")):
        with pytest.raises(InputError, match=f"r.json: damaged: .*{told}"):
            run_command(command, *words)


def test_a_peer_and_a_reference_are_lost_only_where_they_were_asked_for() -> None:
    peer = {"engine": "llama-cpp-python"}
    before = make_result([
        make_cell("a", [4.0] * 5),
        *(make_cell(f"{model} / peer", [4.0] * 5, model=model, **peer) for model in ("a", "b", "full")),
        make_cell("full", [4.0] * 5),
    ])  # fmt: skip
    after = make_result(before.cells[:1])

    def lost(**settings: object) -> tuple[str, ...]:
        asked = {"models": ["a", "b"], "engines": ["pairgrade", "llama-cpp-python"], "reference": "full"} | settings
        return compare(before, replace(after, settings=after.settings | asked)).lost

    assert lost(peer_models=["a"]) == ("a / peer", "full")
    assert lost(peer_models=[]) == ("a / peer", "b / peer", "full")  # the reference is no model of the peers
    several = make_result([make_cell("x/a", [4.0] * 5), make_cell("x-y/a", [4.0] * 5), *before.cells[:1]])
    asked = after.settings | {"models": ["a", "x"]}
    assert compare(several, replace(after, settings=asked)).lost == ("x/a",)  # of a folder of several exports
    asked = after.settings | {"models": ["a"], "reference": "x"}
    assert compare(several, replace(after, settings=asked)).lost == ("x/a",)
    assert lost(engines=["llama-cpp-python"], reference=None) == ("a / peer", "b / peer")
