"""Nothing that comes with a model, adapter, checkpoint or cache is ever run: no pickle, no module, no archive."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, ModelError, ResumeError, Rubric
from pairgrade.errors import PairgradeError
from pairgrade.file_hashes import file_sha256, remembered_sha256
from pairgrade.folder_check import check_folder
from pairgrade.readers import Source

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import save_file  # noqa: E402

from pairgrade.export.gguf_export import GgufOptions, export_gguf  # noqa: E402
from pairgrade.export.measure import Task  # noqa: E402
from pairgrade.export.onnx_export import export_onnx  # noqa: E402
from pairgrade.export.onnx_folder import OnnxSettings  # noqa: E402
from pairgrade.export.quantize import quants  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend  # noqa: E402
from pairgrade.export.verify import verify  # noqa: E402
from pairgrade.train.checkpoint import Checkpoints  # noqa: E402
from pairgrade.train.merge import merge  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402
from pairgrade.train.run import TrainJob, train  # noqa: E402

TREC = Rubric.load("trec")
TASK = Task(make_pairs(1, 2), TREC)
ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "export", "train", "cli", "bench")


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def _train(folder: Path, scratch: Path) -> None:
    source = Source(str(write_jsonl(scratch / "graded.jsonl", make_pairs(4, 4))))
    options = TrainOptions(train_pairs=8, validation_pairs=4, epochs=1, batch=8, threads=1)
    train(TrainJob(source, str(folder), scratch / "adapter", TREC), options)


def _merge(folder: Path, scratch: Path) -> None:
    """Merge an adapter, sound as far as this goes, into the folder."""
    from pairgrade.train.base_model import folder_digest

    adapter = scratch / "sound-adapter"
    adapter.mkdir()
    prompt = {"rubric": TREC.digest, "chat_format": "plain", "option.context": "1024"}
    identity = {"base": folder_digest(folder)} | prompt
    (adapter / "manifest.json").write_text(
        json.dumps({"kind": "adapter", "base": str(folder), "identity": identity, "rubric": "trec"})
    )
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"a": torch.zeros(2)}, adapter / "adapter_model.safetensors")
    merge(adapter, scratch / "merged", make_pairs(1, 1), TREC, base=folder)


def _merge_it(folder: Path, scratch: Path) -> None:
    """Merge the folder, an adapter."""
    (folder / "manifest.json").write_text(
        json.dumps({"kind": "adapter", "base": str(folder), "identity": {}, "rubric": "trec"})
    )
    merge(folder, scratch / "merged", make_pairs(1, 1), TREC)


EVERY_WAY: dict[str, Callable[[Path, Path], object]] = {
    "label": lambda folder, scratch: Annotator.open(folder),
    "label in torch": lambda folder, scratch: TorchBackend(folder),
    "train": _train,
    "merge into it": _merge,
    "merge it": _merge_it,
    "convert": lambda folder, scratch: export_gguf(folder, scratch / "gguf", GgufOptions(quants("f16"), TASK)),
    "export": lambda folder, scratch: export_onnx(folder, scratch / "onnx", OnnxSettings("fp32")),
    "verify": lambda folder, scratch: verify(folder, folder, TASK),
}


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model.pt", "state.pkl"])
def test_a_pickle_is_never_read(way: str, name: str, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(tiny_folder("llama"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(ModelError, match=r"is a pickle|has no model|safetensors"):
        EVERY_WAY[way](folder, tmp_path)
    with pytest.raises(ModelError, match="is a pickle"):
        check_folder(folder)
    assert not canary.exists()
    pickle.loads((folder / name).read_bytes()).close()
    assert canary.exists()  # it would have


def _pickled_adapter(folder: Path, base: Path, canary: Path) -> Path:
    """Put an adapter's config and its pickled weights into a folder, as peft writes them."""
    from peft import LoraConfig

    LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=str(base)).save_pretrained(str(folder))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    return folder


def test_a_pickle_beside_other_safetensors_of_an_adapter_is_never_read(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    adapter = _pickled_adapter(tmp_path / "adapter", tiny_folder("llama"), tmp_path / "canary")
    save_file({"a": torch.zeros(2)}, adapter / "other.safetensors")
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors"):
        _merge_it(adapter, tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "config",
    ['{"peft_type": "XLORA", "adapters": {"0": "elsewhere"}}', '{"peft_type": "LORA", "megatron_config": {"a": 1}}'],
)
def test_an_adapter_that_wants_other_adapters_or_a_module_is_refused(
    config: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        check_folder(tmp_path, adapter=True)
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError, match="only plain LoRA is loaded"):
        _merge_it(tmp_path, tmp_path)


@pytest.mark.parametrize("way", [way for way in EVERY_WAY if way not in ("label", "merge it")])
@pytest.mark.parametrize("weights", ["adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_beside_a_model_is_never_laid_over_it(
    way: str, weights: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    _pickled_adapter(folder, tiny_folder("llama"), tmp_path / "canary")
    if weights.endswith(".safetensors"):
        save_file({"a": torch.zeros(2)}, folder / weights)
    with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\)"):
        EVERY_WAY[way](folder, tmp_path)
    assert not (tmp_path / "canary").exists()


def test_nothing_beside_a_gguf_is_read(
    tmp_path: Path, tiny_gguf_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """A folder of its own is made of a GGUF for training; the files beside it name another base and a pickle."""
    from pairgrade.export.gguf_writer import write_gguf
    from pairgrade.train.base_model import resolve_folder

    write_gguf(tiny_folder("qwen2"), tmp_path / "sound.gguf")
    folder = tmp_path / "gguf"
    _pickled_adapter(folder, tiny_folder("llama"), tmp_path / "canary")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_folder("llama") / name, folder / name)
    shutil.copyfile(tmp_path / "sound.gguf", folder / "model.gguf")
    alone = resolve_folder(str(tmp_path / "sound.gguf"), tmp_path / "alone")
    made = resolve_folder(str(folder / "model.gguf"), tmp_path / "made")
    assert not (tmp_path / "canary").exists()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (made / name).read_bytes() == (alone / name).read_bytes()


def encoder_of(folder: Path, source: Path, modules: list[dict[str, object]]) -> Path:
    shutil.copytree(source, folder)
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_a_pickle_of_an_encoders_further_layer_is_never_read(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    modules: list[dict[str, object]] = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    folder = encoder_of(tmp_path / "encoder", tiny_folder("llama"), modules)
    (folder / "2_Dense").mkdir()
    check_folder(folder)
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    for _ in range(2):  # and not beside safetensors of another name
        with pytest.raises(ModelError, match=r"2_Dense holds no weights in safetensors.* is a pickle"):
            check_folder(folder)
        save_file({"a": torch.zeros(2)}, folder / "2_Dense" / "other.safetensors")
    save_file({"a": torch.zeros(2)}, folder / "2_Dense" / "model.safetensors")
    check_folder(folder)


@pytest.mark.parametrize("where", ["", "0_Transformer"])
def test_an_adapter_beside_an_encoder_is_never_laid_over_it(
    where: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    from pairgrade.train.encoder import resolve_encoder

    modules: list[dict[str, object]] = [
        {"name": "0", "path": where, "type": "sentence_transformers.models.Transformer"}
    ]
    folder = encoder_of(tmp_path / "encoder", tiny_folder("llama"), modules)
    (folder / "0_Transformer").mkdir()
    assert resolve_encoder(str(folder)) == folder
    (folder / where / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\)"):
        resolve_encoder(str(folder))


@pytest.mark.parametrize(
    "module",
    [
        {"path": "1", "type": "os.system"},
        {"path": "1"},
        {"path": "../elsewhere", "type": "sentence_transformers.models.Dense"},
        {"path": "/elsewhere", "type": "sentence_transformers.models.Dense"},
        {"path": "1", "type": "sentence_transformers.base.modules.router.Router"},
        "sentence_transformers.models.Dense",
    ],
)
def test_a_module_of_an_encoder_is_one_of_sentence_transformers_inside_the_folder(
    module: dict[str, object], tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder = encoder_of(tmp_path / "encoder", tiny_folder("llama"), [module])
    with pytest.raises(ModelError, match=r"modules\.json names"):
        check_folder(folder)


@pytest.mark.parametrize("way", [way for way in EVERY_WAY if way != "label"])
@pytest.mark.parametrize("config", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_is_never_run(
    way: str, config: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(tiny_folder("llama"), folder)
    for name in ("modeling_canary", "tokenization_canary", "configuration_canary"):
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    table = json.loads((folder / config).read_text())
    table["auto_map"] = {
        "AutoModelForCausalLM": "modeling_canary.Model",
        "AutoConfig": "configuration_canary.Config",
        "AutoTokenizer": ["tokenization_canary.Tokenizer", None],
    }
    (folder / config).write_text(json.dumps(table))
    with pytest.raises(ModelError, match="never does; if the model is of a known family, remove its auto_map"):
        EVERY_WAY[way](folder, tmp_path)
    assert not canary.exists()
    assert not [name for name in sys.modules if "canary" in name]


def test_a_pickled_checkpoint_or_optimizer_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for name in ("step-1.pt", "step-1.safetensors", "optimizer.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Canary(canary)))
        state = {"step": 1, "losses": [], "evaluations": [], "best": None, "stopped_early": False, "tensors": name}
        (tmp_path / "state.json").write_text(json.dumps(state))
        with pytest.raises(ResumeError, match="cannot be read"):
            Checkpoints(tmp_path).load(dict(model.named_parameters()), optimizer)
    assert not canary.exists()


def test_a_pickle_in_the_cache_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, large = tmp_path / "canary", tmp_path / "large.bin"
    large.write_bytes(bytes(2**20 + 1))
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path))
    (tmp_path / "hashes.json").write_bytes(pickle.dumps(Canary(canary)))
    assert remembered_sha256(large) == file_sha256(large)
    assert not canary.exists()


@pytest.mark.parametrize("where", ["journal", "manifest.json", "heartbeat.json"])
def test_a_pickle_in_a_runs_folder_is_not_opened(where: str, tmp_path: Path) -> None:
    from helpers import run_command
    from pairgrade.cli.label import command

    canary, run = tmp_path / "canary", tmp_path / "out.jsonl.run"
    run.mkdir()
    (run / where).write_bytes(pickle.dumps(Canary(canary)))
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 2))
    try:
        run_command(command, pairs, "--model", "fake:", "--in-process", "--out", tmp_path / "out.jsonl", "--quiet")
    except PairgradeError as error:
        assert where == "manifest.json"
        assert "is not a manifest of pairgrade" in str(error)  # noqa: PT017
    assert not canary.exists()


def _sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    assert len(found) > 100
    return found


PICKLE_MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "jsonpickle", "pickletools"),
    *("dill", "joblib", "shelve", "marshal", "diskcache"),
}
PICKLE_READERS = {"LlamaDiskCache", "Unpickler", "read_pickle"}
MUST_BE_FALSE = {"allow_pickle", "trust_remote_code"}


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _pickle_readers(source: str) -> list[str]:
    """Return what of a module's source reads pickles, or may: imports, calls, settings."""
    found, names = [], {}
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names}
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
            readers = PICKLE_READERS | ({"load"} if root in ("torch", "numpy") else set())
            found += [root] if root in PICKLE_MODULES else [a.name for a in node.names if a.name in readers]
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr in PICKLE_READERS:
            found.append(node.attr)
        elif isinstance(node, ast.keyword) and node.arg in MUST_BE_FALSE and not _is_false(node.value):
            found.append(node.arg)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in MUST_BE_FALSE and not _is_false(value):
                    found.append(str(key.value))
        elif isinstance(node, ast.Call):
            found += _pickle_calls(node, names)
    return found


def _pickle_calls(call: ast.Call, names: dict[str, str]) -> list[str]:
    """Return what a call imports or loads by torch or numpy; a pickle is possible unless it says that it is not."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("import_module", "__import__"):
        wanted = [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
        return [module for module in wanted if module.split(".")[0] in PICKLE_MODULES]
    if name == "load" and isinstance(call.func, ast.Attribute):
        base = call.func.value
        while isinstance(base, ast.Attribute):
            base = base.value
        root = names.get(getattr(base, "id", ""), "")
        sure = len(call.args) < 3 and any(k.arg == "allow_pickle" for k in call.keywords)  # looked at above
        if root == "torch" or (root == "numpy" and not sure):
            return [f"{root}.load"]
    return []


READS_PICKLES = (
    "import pickle", "import numpy, pickle as p", "from pickle import load", "import cloudpickle",
    "def f():\n    from dill import loads", "import importlib\nimportlib.import_module('pickle')",
    "__import__('joblib')", "import torch\ntorch.load(p)", "import torch as t\nt.serialization.load(p)",
    "from torch import load", "import numpy as np\nnp.load(p)", "import numpy as np\nnp.load(p, None, True)",
    "import numpy as np\nnp.load(p, allow_pickle=1)", "from numpy import load as read",
    "f(trust_remote_code=flag)", "f(**{'trust_remote_code': True})", "llama_cpp.LlamaDiskCache()",
    "from llama_cpp import LlamaDiskCache",
)  # fmt: skip


def test_no_module_reads_pickles() -> None:
    for source in READS_PICKLES:
        assert _pickle_readers(source), source
    for path in _sources():
        assert not _pickle_readers(path.read_text(encoding="utf-8")), path


def test_no_module_unpacks_an_archive() -> None:
    """So that no member of one can leave the folder it is unpacked into; gzip, a stream without names, is read."""
    modules, calls = {"tarfile", "zipfile", "py7zr", "rarfile"}, {"extractall", "unpack_archive", "extract_archive"}
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & modules, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in modules, path
            elif isinstance(node, ast.Attribute):
                assert node.attr not in calls, path


def test_no_module_runs_text() -> None:
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
