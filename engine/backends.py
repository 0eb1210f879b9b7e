"""Which backend runs a model, told by its reference, in this process or in one of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pairgrade.advisories import refuse_known_bad
from pairgrade.backend import Backend
from pairgrade.errors import ModelError
from pairgrade.fake import FakeBackend, FakeTokenizer
from pairgrade.file_hashes import MANIFEST
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.llama import LlamaBackend, LlamaOptions
from pairgrade.llama_model import LlamaModel
from pairgrade.model_choice import choose_model
from pairgrade.models import resolve
from pairgrade.onnx_backend import PROVIDERS, OnnxBackend, OnnxOptions
from pairgrade.onnx_manifest import is_onnx_folder, read_facts
from pairgrade.tokenizer import Tokenizer
from pairgrade.worker import WorkerBackend

_log = logging.getLogger(__name__)


def open_backend(
    reference: str | Path,
    llama: LlamaOptions | None = None,
    onnx: OnnxOptions | None = None,
    *,
    isolate: bool = False,
) -> tuple[Backend, Path | None]:
    """Load a model; return its backend and its file, which is None for the fake that needs none.

    Of a folder that holds several models, the one that ``choose_model`` takes on this machine; the log says why.
    ``isolate``: in a worker process, whose death is survived; the scores are the same.
    """
    text = one_model(reference, onnx)
    if text.startswith("fake:"):
        if isolate:
            return WorkerBackend(text, lambda: _tokenizer(text), llama), None
        context = llama.context if llama else None
        reference, _, name = text.partition("#")  # one of each name scores otherwise
        delay, token_delay = _delays(reference)
        return FakeBackend(context or 1024, delay, token_delay=token_delay, name=name), None
    if is_onnx_folder(Path(text)):
        refuse_known_bad("onnxruntime", "onnxruntime-gpu")
        options = onnx or OnnxOptions(*((llama.context, llama.threads) if llama else ()))
        file = Path(text) / MANIFEST
        if isolate:
            return WorkerBackend(text, lambda: _tokenizer(text), onnx=options), file
        return OnnxBackend(Path(text), options), file
    refuse_known_bad("llama-cpp-python")
    path = resolve(text)
    if isolate:
        return WorkerBackend(str(path), lambda: _tokenizer(str(path)), llama), path
    return LlamaBackend(path, llama), path


def one_model(reference: str | Path, onnx: OnnxOptions | None = None) -> str:
    """Return the one model that a reference names or that is taken of those in it; the log says why."""
    cuda = onnx is not None and onnx.provider == PROVIDERS["cuda"]
    choice = choose_model(str(reference), cuda=cuda)
    if choice.why:
        _log.info("%s: %s", reference, choice.why)
    return choice.model


@contextmanager
def _tokenizer(model: str) -> Iterator[Tokenizer]:
    """Open a model's tokenizer alone, for a parent whose worker has read the model without dying of it."""
    if model.startswith("fake:"):
        yield FakeTokenizer()
    elif is_onnx_folder(Path(model)):
        yield FolderTokenizer(Path(model), read_facts(Path(model)).vocabulary)
    else:
        with closing(LlamaModel(Path(model), vocab_only=True)) as vocabulary:
            yield vocabulary.tokenizer


def _delays(reference: str) -> tuple[float, float]:
    """Return the seconds of ``fake:DOCUMENT+TOKEN``, which the fake sleeps for each of them."""
    document, _, token = reference[len("fake:") :].partition("+")
    try:
        return float(document or 0), float(token or 0)
    except ValueError:
        raise ModelError(
            f"'{reference}': behind fake: stand the seconds of a document, or nothing, and behind a + those of a token"
        ) from None
