"""Other libraries judging the same pairs by the same prompts: who is fast, and who is right.

Each generates text after the prompt and has it parsed, which is how they are used for grading. An answer in which no
label word stands first has no grade.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pairgrade.bench.cell_records import CellJob
from pairgrade.environment import package_version
from pairgrade.errors import InputError, ModelError
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.llama_model import LlamaModel
from pairgrade.models import resolve
from pairgrade.prompt import PromptBuilder, detect_chat_format
from pairgrade.records import Pair
from pairgrade.rubric import Rubric

_NEW_TOKENS = 4  # of an answer; the cue leaves room for the label word alone
_BATCH = 8  # prompts that transformers runs at a time
_UNWRITTEN = {
    "onnxruntime-genai": "onnxruntime_genai",
    "openvino-genai": "openvino_genai",
    "vllm": "vllm",
}


class Peer(Protocol):
    """Another library with a model loaded."""

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate the answer to each pair's prompt."""

    def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""

    def identity(self) -> dict[str, str]:
        """Name the library and its version."""


def not_measured() -> dict[str, str]:
    """Say of engines that have no adapter here why they are not in the report."""
    found = {}
    for name, module in _UNWRITTEN.items():
        missing = importlib.util.find_spec(module) is None
        found[name] = "not installed" if missing else "installed, but pairgrade has no adapter for it"
    missing = shutil.which("llama-server") is None
    found["llama-server"] = "not on the PATH" if missing else "on the PATH, but pairgrade has no adapter for it"
    return found


def open_peer(job: CellJob) -> Peer:
    """Load the job's model with the job's engine; ModelError where that engine cannot run it."""
    if job.engine == "llama-cpp-python":
        return _LlamaCpp(job)
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise ModelError("torch and transformers are not installed; run: pip install 'pairgrade[train]'")
    return _Transformers(job, _BATCH if job.engine == "transformers-batched" else 1)


def parsed(text: str, rubric: Rubric) -> int | None:
    """Return the grade whose label word an answer begins with; the longest, where one begins another."""
    answer = text.lstrip()
    found = [g for g in rubric.grades if answer.startswith(g.label.strip())]
    return max(found, key=lambda g: len(g.label)).grade if found else None


class _Prompts:
    """Builds prompts as pairgrade does, and gives them as lists of ids."""

    def __init__(self, job: CellJob, tokenizer: Any, is_chat_model: bool) -> None:
        self.rubric = Rubric.load(job.rubric)
        chat = detect_chat_format(tokenizer, is_chat_model)
        self._builder = PromptBuilder(self.rubric, tokenizer, job.context - _NEW_TOKENS, chat)

    def ids(self, pairs: Sequence[Pair]) -> Iterator[list[int]]:
        for pair in pairs:
            prompt = self._builder.build(pair)
            yield [token for part in (*prompt.prefix, prompt.suffix) for token in part.tolist()]

    def tokens(self, pairs: Sequence[Pair]) -> int:
        try:
            return sum(map(len, self.ids(pairs)))
        except InputError as error:
            raise ModelError(f"a pair of the slice does not fit: {error}") from None


class _LlamaCpp:
    """llama-cpp-python's ``create_completion`` of one token; it keeps the longest common prefix by itself."""

    def __init__(self, job: CellJob) -> None:
        import llama_cpp

        if Path(job.model).is_dir():
            raise ModelError("llama-cpp-python runs GGUF files, and this model is a folder")
        path = resolve(job.model)
        vocabulary = LlamaModel(path, vocab_only=True)
        self._prompts = _Prompts(job, vocabulary.tokenizer, vocabulary.is_chat_model)
        self._llama: Any = llama_cpp.Llama(
            str(path), n_ctx=job.context, n_threads=job.threads, n_threads_batch=job.threads, verbose=False
        )

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Complete each prompt by one token, given as ids, which spares the library the tokenizing."""
        prompts = self._prompts.ids(pairs)
        done = (self._llama.create_completion(ids, max_tokens=1, temperature=0.0) for ids in prompts)
        return [answer["choices"][0]["text"] for answer in done]

    def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""
        return self._prompts.tokens(pairs)

    def identity(self) -> dict[str, str]:
        """Name the library."""
        return {"kind": "llama-cpp-python, create_completion", "llama_cpp_python": package_version("llama-cpp-python")}


class _Transformers:
    """transformers' ``generate``, greedy, one prompt at a time or padded on the left to batches, then parsed."""

    def __init__(self, job: CellJob, batch: int) -> None:
        import torch

        from pairgrade.export.causal_model import load_causal
        from pairgrade.train.base_model import resolve_folder

        torch.set_num_threads(job.threads)
        self._torch = torch
        self._batch = batch
        with tempfile.TemporaryDirectory() as scratch:
            folder = resolve_folder(job.model, Path(scratch) / "model")
            self._prompts = _Prompts(job, FolderTokenizer(folder), has_chat_template(folder))
            self._tokenizer = FolderTokenizer(folder)
            self._model: Any = load_causal(folder)
        self._model.eval()
        self._pad = next((i for i in (self._model.config.pad_token_id, self._model.config.eos_token_id) if i), 0)

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate some tokens after each prompt."""
        torch = self._torch
        prompts = list(self._prompts.ids(pairs))
        found: list[str] = []
        for start in range(0, len(prompts), self._batch):
            batch = prompts[start : start + self._batch]
            width = max(map(len, batch))
            ids = torch.tensor([[self._pad] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                answers = self._model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=_NEW_TOKENS, do_sample=False,
                    temperature=None, top_p=None, top_k=None, pad_token_id=self._pad,
                )  # fmt: skip
            for row in answers[:, width:].tolist():
                found.append("".join(map(self._tokenizer.piece, row)))
        return found

    def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""
        return self._prompts.tokens(pairs)

    def identity(self) -> dict[str, str]:
        """Name the library, its batch and the precision."""
        return {
            "kind": f"transformers generate, batches of {self._batch}",
            "transformers": package_version("transformers"),
            "torch": package_version("torch"),
            "dtype": str(self._model.dtype),
        }
