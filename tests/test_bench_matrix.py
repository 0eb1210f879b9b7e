from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import InputError
from pairgrade.bench.matrix import Cell, Data, Matrix, Rounds, names
from pairgrade.bench.matrix_file import load_matrix
from pairgrade.bench.portable import PortableNames
from pairgrade.bench.prices import age_warning, load_prices
from pairgrade.bench.slice import take_slice

TEXT = """
models = ["a.gguf", "fake:"]
engines = ["pairgrade", "transformers"]
threads = [1, 2]
batch_tokens = [512, 2048]

[data]
pairs = "pairs.jsonl"
per_query = 3

[rounds]
most = 9
"""


def test_a_file_becomes_cells_with_paths_of_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "matrix.toml").write_text(TEXT)
    (tmp_path / "a.gguf").touch()
    (tmp_path / "pairs.jsonl").touch()
    matrix = load_matrix(tmp_path / "matrix.toml")
    assert matrix.data == Data(str(tmp_path / "pairs.jsonl"), per_query=3)
    assert matrix.rounds == Rounds(most=9)
    (tmp_path / "more.toml").write_text(TEXT.replace("most = 9", "least = 20"))
    assert load_matrix(tmp_path / "more.toml").rounds == Rounds(least=20, most=20)
    cells = matrix.cells()
    model = str(tmp_path / "a.gguf")
    assert set(cells) == {
        Cell(m, e, "trec", t, b)
        for m in (model, "fake:")
        for t in (1, 2)
        for e, b in (("pairgrade", 512), ("pairgrade", 2048), ("transformers", 512))  # a peer has no batch budget
    }
    assert len(set(names(cells))) == len(cells) == 12
    assert names(cells)[0] == "a / pairgrade / 1 thread / batch 512"


def test_what_a_gpu_is_to_do_is_read_and_checked(tmp_path: Path) -> None:
    asked = 'gpu_layers = -1\nsequences = 8\nprovider = "cuda"\n'
    (tmp_path / "matrix.toml").write_text(asked + TEXT)
    matrix = load_matrix(tmp_path / "matrix.toml")
    assert (matrix.gpu_layers, matrix.sequences, matrix.provider) == (-1, 8, "cuda")
    with pytest.raises(InputError, match="-2 layers on the GPU"):
        replace(matrix, gpu_layers=-2)
    with pytest.raises(InputError, match="the provider is 'tpu'; it can be cpu, cuda"):
        replace(matrix, provider="tpu")


def test_peers_run_the_models_that_are_meant_for_them(tmp_path: Path) -> None:
    (tmp_path / "matrix.toml").write_text(TEXT.replace("threads", 'peer_models = ["a.gguf"]\nthreads', 1))
    (tmp_path / "a.gguf").touch()
    cells = load_matrix(tmp_path / "matrix.toml").cells()
    assert {cell.model for cell in cells if cell.engine == "transformers"} == {str(tmp_path / "a.gguf")}
    assert {cell.model for cell in cells if cell.engine == "pairgrade"} == {str(tmp_path / "a.gguf"), "fake:"}


def test_a_link_has_its_own_name_and_two_rubrics_of_one_name_have_their_paths(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "67edab").touch()
    links = [tmp_path / "model-q8_0.gguf", tmp_path / "other.gguf"]
    for link in links:
        link.symlink_to(tmp_path / "blobs" / "67edab")
    cells = Matrix(tuple(map(str, links)), Data("p"), threads=(1,)).cells()
    assert names(cells) == ["model-q8_0", "other"]
    rubrics = ("trec", "r/trec.toml", "esci")
    cells = Matrix(("fake:",), Data("p"), threads=(1,), rubrics=rubrics).cells()
    assert names(cells) == list(rubrics)
    cells = Matrix(("fake:",), Data("p"), threads=(1,), rubrics=("r/own.toml", "trec")).cells()
    assert names(cells) == ["own", "trec"]


def test_the_reference_is_measured_once(tmp_path: Path) -> None:
    data = Data("pairs.jsonl")
    one = {"trec": Cell("fake:0", threads=2)}
    assert Matrix(("fake:", "fake:0"), data, threads=(2, 1), reference="fake:0").reference_cells() == one
    assert Matrix(("fake:",), data, threads=(2,), reference="fake:0").reference_cells() == one
    assert Matrix(("fake:",), data).reference_cells() == {}


def test_every_rubric_has_a_reference_of_its_own() -> None:
    matrix = Matrix(("fake:", "fake:0"), Data("p"), threads=(1,), rubrics=("trec", "other.toml"), reference="fake:0")
    assert matrix.reference_cells() == {name: Cell("fake:0", rubric=name) for name in ("trec", "other.toml")}
    assert set(matrix.reference_cells().values()) <= set(matrix.cells())


def test_paths_are_named_so_that_another_folder_has_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in ("here", "there"):
        root, elsewhere = tmp_path / place, tmp_path / f"else-{place}"
        for folder in (root / "models", elsewhere, elsewhere / "twin"):
            folder.mkdir(parents=True)
        for path in (root / "models" / "a.gguf", elsewhere / "b.gguf", root / "pairs.jsonl", root / "own.toml"):
            path.touch()
        models = ["models/a.gguf", str(elsewhere / "b.gguf"), "fake:", "gone.gguf"]
        text = f'models = {models}\nrubrics = ["own.toml", "trec"]\nreference = "models/a.gguf"\n'
        (root / "matrix.toml").write_text(f'{text}[data]\npairs = "pairs.jsonl"\n')
        matrix = load_matrix(root / "matrix.toml")
        portable = PortableNames(matrix, root)
        found.append((portable.matrix(matrix), [portable.cell(cell) for cell in matrix.cells()]))
        told = portable.text(f"{elsewhere / 'b.gguf'} is no model; nor is {root / 'models' / 'a.gguf'}, see fake:")
        assert told == "b.gguf is no model; nor is models/a.gguf, see fake:"
    assert found[0] == found[1]
    named, cells = found[0]
    assert named.models == ("models/a.gguf", "b.gguf", "fake:", "gone.gguf")
    assert (named.reference, named.rubrics, named.data.pairs) == ("models/a.gguf", ("own.toml", "trec"), "pairs.jsonl")
    assert {cell.rubric for cell in cells} == {"own.toml", "trec"}
    monkeypatch.chdir(tmp_path)  # what is there, and not beside the matrix
    outside = Matrix((str(tmp_path / "else-here" / "b.gguf"),), Data("p"))
    assert PortableNames(outside, tmp_path / "here").matrix(outside).models == ("else-here/b.gguf",)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    twins = Matrix((str(tmp_path / "else-here" / "b.gguf"), str(tmp_path / "else-there" / "b.gguf")), Data("p"))
    assert PortableNames(twins, tmp_path / "here").matrix(twins).models == twins.models


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('engines = ["mlx"]', "no engine 'mlx'"),
        ('peer_models = ["b.gguf"]', "peer_models names 'b.gguf'"),
        ("thread = [1]", "unknown key 'thread'"),
        ("threads = [0]", "at least 1"),
        ("context = 1.5", "context"),
        ('usd_per_hour = 0.1\nmachine = "c7i.xlarge"', "not both"),
        ("models = []", "no models"),
        ("models = [", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, change: str, told: str) -> None:
    head = "" if change.startswith("models") else 'models = ["fake:"]\n'
    (tmp_path / "matrix.toml").write_text(f'{head}{change}\n[data]\npairs = "pairs.jsonl"\n')
    with pytest.raises(InputError, match=told):
        load_matrix(tmp_path / "matrix.toml")


def test_a_slice_is_the_same_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    pairs = make_pairs(6, 5)
    first = take_slice(Data(str(write_jsonl(tmp_path / "a.jsonl", pairs)), max_queries=3, per_query=2))
    again = take_slice(Data(str(write_jsonl(tmp_path / "b.jsonl", pairs[::-1])), max_queries=3, per_query=2))
    other = take_slice(Data(str(tmp_path / "a.jsonl"), max_queries=3, per_query=2, seed=1))
    assert first == again
    assert first != other
    assert len(first) == 6
    assert [p.query_id for p in first[::2]] == [p.query_id for p in first[1::2]]  # grouped


def test_of_equal_ids_the_first_is_taken(tmp_path: Path) -> None:
    pairs = make_pairs(2, 2)
    again = replace(pairs[0], document="another text")
    path = write_jsonl(tmp_path / "a.jsonl", [*pairs, again])
    assert set(take_slice(Data(str(path)))) == set(pairs)


def test_the_shipped_prices_are_whole_and_dated() -> None:
    table = load_prices()
    assert table.machine("C7I.xlarge").usd_per_hour == 0.1785
    assert len({m.type for m in table.machines}) == len(table.machines) > 5
    assert all(date.fromisoformat(price.date) <= date.today() for price in (*table.machines, *table.apis))
    with pytest.raises(InputError, match=r"no machine 'x'; it has c7i\.xlarge"):
        table.machine("x")


def test_an_api_costs_its_tokens() -> None:
    mini = next(api for api in load_prices().apis if api.model == "gpt-4o-mini")
    assert mini.usd_per_million_pairs(200) == pytest.approx(200 * 0.15 + 0.60)  # a million of each: dollars as listed


def test_old_prices_are_warned_about() -> None:
    assert age_warning("x", "2026-01-01", date(2026, 3, 1)) is None
    assert "731 days ago" in (age_warning("x", "2024-01-01", date(2026, 1, 1)) or "")


def test_ones_own_prices_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[[machine]]\nprovider = "us"\ntype = "box"\nusd_per_hour = 0\ndate = 2026-01-01\nsource = "us"\n')
    with pytest.raises(InputError, match=r"machine\.0\.usd_per_hour: input should be greater than 0"):
        load_prices(path)
