"""A model's own chat template is a program of somebody else's. It is looked at, never run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from helpers import make_pairs
from pairgrade import Annotator, Judgment, LlamaOptions

ROOT = Path(__file__).parents[2]
RENDERING = {
    "apply_chat_template",
    "llama_chat_apply_template",
    "from_string",
    "Jinja2ChatFormatter",
    "create_chat_completion",
}
LIBRARIES = {"jinja2", "llama_cpp.llama_chat_format", "minijinja"}


def _names(tree: ast.AST) -> set[str]:
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _imports(tree: ast.AST) -> set[str]:
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("folder", ["engine", "export", "train", "cli", "bench"])
def test_nothing_of_ours_renders_a_template(folder: str) -> None:
    files = sorted((ROOT / folder).glob("*.py"))
    assert files
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not _names(tree) & RENDERING, path
        assert not _imports(tree) & LIBRARIES, path


def _payloads(canary: Path) -> list[str]:
    run = f"open({str(canary)!r}, 'w')"
    return [
        "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x.__init__.__globals__ }}{% endfor %}",
        "{{ self.__init__.__globals__.__builtins__." + run + " }}",
        "{{ lipsum.__globals__['os'].popen('touch " + str(canary) + "').read() }}",
        "{% for a in range(99999999) %}{% for b in range(99999999) %}{{ 'x' * 99999999 }}{% endfor %}{% endfor %}",
    ]


def judged(path: Path) -> list[Judgment]:
    with Annotator.open(path, llama=LlamaOptions(context=320, threads=1), isolate=True) as annotator:
        assert annotator.identity()["chat"] == "chatml"
        return list(annotator.label(make_pairs(1, 1)))


@pytest.fixture(scope="module")
def expected(smollm2_path: Path) -> list[Judgment]:
    return judged(smollm2_path)


@pytest.mark.model
@pytest.mark.parametrize("number", range(5))
def test_a_model_with_a_hostile_template_labels_as_ever(
    smollm2_path: Path, expected: list[Judgment], tmp_path: Path, number: int
) -> None:
    """The template in the file is overwritten in place by a payload; the labels are those of the sound file."""
    canary = tmp_path / "canary"
    data = bytearray(smollm2_path.read_bytes())
    key = b"tokenizer.chat_template"
    at = data.index(key) + len(key) + 4  # behind the type of the value
    length = int.from_bytes(data[at : at + 8], "little")
    payload = _payloads(canary)[number].encode()
    assert len(payload) <= length
    data[at + 8 : at + 8 + length] = payload.ljust(length)
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(data)
    assert judged(hostile) == expected
    assert not canary.exists()
