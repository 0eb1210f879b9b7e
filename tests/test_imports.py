"""Light imports, the public names, one top-level package in the wheel."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pairgrade
from pairgrade import errors

ROOT = Path(__file__).parent.parent
HEAVY = (
    *("llama_cpp", "onnxruntime", "torch", "transformers", "sklearn", "scipy", "matplotlib", "pyarrow"),
    *("huggingface_hub", "krippendorff", "ir_measures", "ir_datasets"),
)
HELP = "import pairgrade.cli; pairgrade.cli.cli({}, standalone_mode=False)"


@pytest.mark.parametrize(
    "statement",
    ["import pairgrade", *(HELP.format(a) for a in (["--help"], ["label", "--help"], ["agree", "--help"]))],
)
def test_imports_and_help_stay_light(statement: str) -> None:
    code = f"import sys\n{statement}\nprint('loaded', [m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "loaded []"


def test_a_worker_starts_without_what_only_reads_files() -> None:
    code = f"import sys, pairgrade.worker_child\nprint([m for m in {(*HEAVY, 'pydantic')!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_all_is_sorted_and_holds_the_public_names() -> None:
    assert pairgrade.__all__ == sorted(pairgrade.__all__)
    tree = ast.parse((ROOT / "engine" / "__init__.py").read_text())
    imported = {a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imported == set(pairgrade.__all__)


def test_every_error_is_public_and_in_the_tree() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) > 8
    for kind in kinds:
        assert kind.__name__ in pairgrade.__all__
        assert re.search(rf"^ +[|`\- ]*{kind.__name__}\b", str(errors.__doc__), re.MULTILINE)


def test_what_an_annotator_is_opened_with_is_public() -> None:
    named = re.findall(r"\w+Options", str(inspect.signature(pairgrade.Annotator.open)))
    assert {"AnnotatorOptions", "LlamaOptions", "OnnxOptions"} == set(named) <= set(pairgrade.__all__)


def test_the_folders_are_those_of_pyproject() -> None:
    tomllib = pytest.importorskip("tomllib")
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert folders == set(table["package-dir"].values())
    assert set(table["package-dir"]) == set(table["packages"])
    for folder in folders:
        assert (ROOT / folder / "py.typed").exists()
        assert not list((ROOT / folder).glob("*/__init__.py"))  # one level deep


@pytest.mark.slow
def test_the_wheel_holds_exactly_one_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names}
    assert {r for r in roots if not r.endswith(".dist-info")} == {"pairgrade"}
    modules = {n.removeprefix("pairgrade/") for n in names if n.endswith(".py") and n.count("/") == 1}
    assert modules == {p.name for p in (ROOT / "engine").glob("*.py")}
    assert "pairgrade/sample/pairs.jsonl" in names
    assert {f"pairgrade/rubrics/{n}.toml" for n in ("trec", "binary", "esci")} <= set(names)
