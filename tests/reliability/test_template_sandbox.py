"""A model's own chat template is a program of somebody else's. It is looked at, never run."""

from __future__ import annotations

import ast
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from helpers import make_pairs
from pairgrade import Annotator, Judgment, LlamaOptions, Rubric
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.prompt import PromptBuilder, detect_chat_format

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


def _payloads(canary: Path) -> dict[str, str]:
    """Return templates that would make the canary if they were rendered, and some that would not end or fit."""
    shell, python = f"touch {canary}", f"open('{canary}', 'w')"
    return {
        "cycler": "{{ cycler.__init__.__globals__.os.system('" + shell + "') }}",
        "lipsum": "{{ lipsum.__globals__['os'].popen('" + shell + "').read() }}",
        "joiner": "{{ joiner.__init__.__globals__.os.popen('" + shell + "').read() }}",
        "namespace": "{{ namespace.__init__.__globals__.os.popen('" + shell + "').read() }}",
        "self": "{{ self.__init__.__globals__.__builtins__." + python + " }}",
        "self import": "{{ self.__init__.__globals__.__builtins__.__import__('os').system('" + shell + "') }}",
        "template reference": "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('x') }}",
        "range": "{{ range.__class__.__base__.__subclasses__() }}",
        "dict": "{{ dict.__base__.__subclasses__()[104].__init__.__globals__['sys'].modules['os'].system('x') }}",
        "subclasses": "{% for c in ().__class__.__base__.__subclasses__() %}{% if 'Popen' in c.__name__ %}"
        "{{ c(['touch', '" + str(canary) + "']) }}{% endif %}{% endfor %}",
        "warnings": "{% for c in [].__class__.__base__.__subclasses__() %}{% if c.__name__ == 'catch_warnings' %}"
        "{{ c()._module.__builtins__['__import__']('os').system('" + shell + "') }}{% endif %}{% endfor %}",
        "attribute filter": "{{ ''|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
        "escaped names": "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'].mro()[1].__subclasses__() }}",
        "format": "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
        "raise_exception": "{{ raise_exception.__globals__['__builtins__']['eval']('__import__(\"os\")') }}",
        "messages": "{{ messages.__class__.__init__.__globals__ }}{% set x = messages.append(" + python + ") %}",
        "file include": "{% include '/etc/passwd' %}{% import '/etc/passwd' as p %}{{ p }}",
        "endless loops": "{% for a in range(99999999) %}{% for b in range(99999999) %}x{% endfor %}{% endfor %}",
        "endless memory": "{% set x = 'x' * 99999999999 %}{{ x * 99999999 }}{{ [x] * 99999999999 }}",
        "endless macro": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "no template": "{% for %}{{ {% endfor {{ }} %} \x00 " + "(" * 5000,
    }


NAMES = list(_payloads(Path("x")))


def test_a_payload_would_work_where_it_is_rendered(tmp_path: Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    for name in ("cycler", "self import"):
        jinja2.Environment().from_string(_payloads(tmp_path / name.replace(" ", "-"))[name]).render()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cycler", "self-import"]


@pytest.fixture(scope="module")
def calm(tiny_gguf_path: Path) -> list[Judgment]:
    return _tiny(tiny_gguf_path)


def _tiny(path: Path) -> list[Judgment]:
    with Annotator.open(path, llama=LlamaOptions(context=1024, threads=1)) as annotator:
        assert annotator.identity()["chat"] == "chatml"
        return list(annotator.label(make_pairs(1, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_a_template_in_a_gguf_or_a_folder_is_text(
    name: str, calm: list[Judgment], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The conversion carries it along, both tokenizers and the engine load, and the labels are as ever, in no time."""
    pytest.importorskip("gguf")
    from pairgrade.export.gguf_writer import write_gguf

    folder, canary = tmp_path / "folder", tmp_path / "canary"
    payload = _payloads(canary)[name]
    shutil.copytree(tiny_folder("qwen3"), folder)
    table = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": payload}
    (folder / "tokenizer_config.json").write_text(json.dumps(table))
    (folder / "chat_template.jinja").write_text(payload)
    process = psutil.Process()
    start, before = time.process_time(), process.memory_info().rss
    write_gguf(folder, tmp_path / "hostile.gguf")
    assert payload.split("\0")[0].encode() in (tmp_path / "hostile.gguf").read_bytes()
    assert _tiny(tmp_path / "hostile.gguf") == calm
    tokenizer = FolderTokenizer(folder)
    chat = detect_chat_format(tokenizer, has_chat_template(folder))
    PromptBuilder(Rubric.load("trec"), tokenizer, 1024, chat).build(make_pairs(1, 1)[0])
    assert time.process_time() - start < 2
    assert process.memory_info().rss - before < 256 * 2**20
    assert not canary.exists()


def judged(path: Path) -> list[Judgment]:
    with Annotator.open(path, llama=LlamaOptions(context=320, threads=1), isolate=True) as annotator:
        assert annotator.identity()["chat"] == "chatml"
        return list(annotator.label(make_pairs(1, 1)))


@pytest.mark.model
def test_the_real_model_with_a_hostile_template_labels_as_ever(smollm2_path: Path, tmp_path: Path) -> None:
    """The template in the file is overwritten in place; the labels are those of the sound file."""
    canary = tmp_path / "canary"
    data = bytearray(smollm2_path.read_bytes())
    key = b"tokenizer.chat_template"
    at = data.index(key) + len(key) + 4  # behind the type of the value
    length = int.from_bytes(data[at : at + 8], "little")
    payload = _payloads(canary)["cycler"].encode()
    assert len(payload) <= length
    data[at + 8 : at + 8 + length] = payload.ljust(length)
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(data)
    assert judged(hostile) == judged(smollm2_path)
    assert not canary.exists()
