"""The ONNX Runtime backend: batches of documents behind a prefix that is kept, nearly exact.

Keys and values of the prefix's segments are computed once, by a graph of their own, for as long as they do not
change. Documents are packed without padding; see ``pairgrade.onnx_layout``. In fp32 and int8 neither what runs beside
a document nor the thread count (of a graph up to 16, of an fp32 model up to 805 MB) moves a bit of its logits. How it
was chosen: docs/decisions/onnx-engine.md. int8 is computed by ``pairgrade.native_pass`` where that is to be had.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.backend import Counters, Scores, require_fit
from pairgrade.document_facts import read_document_facts
from pairgrade.environment import package_version
from pairgrade.errors import InputError, ModelError
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.hardware import cpu_features, nvidia_gpus, usable_cores
from pairgrade.native_library import native_kind
from pairgrade.native_pass import NativePass
from pairgrade.native_runner import NativeRunner
from pairgrade.onnx_layout import cut, least_rows
from pairgrade.onnx_manifest import CORRECTION, EMBEDDING, HEAD, PROBE, read_manifest
from pairgrade.onnx_runner import OnnxRunner
from pairgrade.onnx_session import CUDA, product_kind, runtime
from pairgrade.onnx_table import Floats, TokenTable, label_logits, read_vector
from pairgrade.option_checks import require_whole
from pairgrade.runner import Runner
from pairgrade.tokenizer import Ids

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": CUDA}

_DEFAULT_CONTEXT = 2048
_SURE_THREADS = 16  # up to which results are known not to depend on their number
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """Settings of the ONNX backend."""

    context: int | None = None  # longest prompt in tokens; None: 2,048 or what the model was trained with, if less
    threads: int | None = None  # None: the physical cores that this process may use
    # tokens the graph computes at a time, padding of the attention included; a document is never split, and the
    # attention of a long one takes 12 to 16 bytes x heads x the square of its tokens (pairgrade's own pass needs none)
    batch_tokens: int = 512
    label_mass: bool = False  # compute the log of the whole vocabulary's sum, too
    reuse: bool = True  # keep the prefix's keys and values; off only to compare
    provider: str = PROVIDERS["cpu"]  # cpu, cuda, or ONNX Runtime's name of one
    native: bool = True  # int8 by pairgrade's own pass, where the processor and the folder allow it
    profile: str | None = None  # a folder that is there; ONNX Runtime writes the time of each operator into it on close

    def __post_init__(self) -> None:
        require_whole(self, "context", "threads", "batch_tokens")
        for name, kinds in (("provider", str), ("profile", (str, type(None)))):
            if not isinstance(value := getattr(self, name), kinds):
                raise InputError(f"{name} is {type(value).__name__}; it must be a str")
        object.__setattr__(self, "provider", PROVIDERS.get(self.provider, self.provider))
        if self.context is not None and self.context < 64:
            raise InputError(f"the context is {self.context} tokens; it must be at least 64")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads; at least 1 is needed")
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}; it must be at least 1")
        if self.profile is not None and not Path(self.profile).is_dir():
            raise InputError(f"there is no folder {self.profile} for the profile; make it, or leave profile out")


class OnnxBackend:
    """An exported ONNX folder behind the backend seam."""

    def __init__(self, folder: Path, options: OnnxOptions | None = None) -> None:
        self.options = options = options or OnnxOptions()
        self.manifest = manifest = read_manifest(folder)
        runtime(manifest.least_onnxruntime)
        self.context = options.context or min(_DEFAULT_CONTEXT, manifest.context)
        if self.context > manifest.context:
            _log.warning(
                "the context of %d tokens is longer than the %d of the training", self.context, manifest.context
            )
        self.tokenizer = FolderTokenizer(folder, manifest.vocabulary)
        self.is_chat_model = has_chat_template(folder)
        embedding = TokenTable(folder / EMBEDDING, manifest.vocabulary, manifest.hidden)
        self._head = embedding
        if not manifest.tied:
            self._head = TokenTable(folder / HEAD, manifest.vocabulary, manifest.hidden)
        self._correction = np.zeros(manifest.hidden, np.float32)
        if CORRECTION in manifest.files:
            self._correction = read_vector(folder / CORRECTION, manifest.hidden)
        self._product = product_kind(folder / PROBE) if manifest.quant == "int8" else "float"
        self._float_prefix = manifest.quant == "fp32" or manifest.recipe.get("prefix") == "float"
        products = self._product, "float" if self._float_prefix else self._product
        self.threads = options.threads or usable_cores()
        self._least_rows = least_rows(manifest.heads, manifest.kv_heads, manifest.head_dim)
        self._native = self._open_native(folder, embedding)
        self._runner: Runner[Any]
        if self._native is not None:
            self._runner = NativeRunner(self._native)
        else:
            profile = Path(options.profile) if options.profile else None
            self._runner = OnnxRunner(
                folder, embedding, self.threads, options.provider, products, self._least_rows, profile
            )

    @property
    def exact(self) -> bool:
        """Whether neighbours move no bit.

        ONNX Runtime's 4-bit product moves the sixth digit with the batch's size, and with very many threads a share
        of a product may be a single row, which has a kernel of its own. What other providers do is not known.
        """
        if self._native is not None:
            return True
        on_cpu = self.options.provider == PROVIDERS["cpu"]
        return on_cpu and self.manifest.quant != "int4" and self.threads <= _SURE_THREADS

    @property
    def counters(self) -> Counters:
        """What was computed since the model was loaded."""
        return self._runner.counters

    @property
    def native_seconds(self) -> dict[str, float]:
        """What each stage of the engine's own pass took, of all threads; empty where ONNX Runtime runs documents."""
        return self._native.seconds if self._native is not None else {}

    def identity(self) -> dict[str, str]:
        """Name the libraries, how this processor multiplies, and the settings that can move a logit."""
        own = {} if self.exact else {"batch_tokens": str(self.options.batch_tokens)}
        shares_float = isinstance(self._runner, OnnxRunner) and self._runner.is_large and self._float_prefix
        if shares_float or (self._native is None and self.threads > _SURE_THREADS):
            own["threads"] = str(self.threads)
        if self.options.provider == PROVIDERS["cuda"]:
            own["gpus"] = nvidia_gpus()
        if self._native is not None:
            own["documents"] = f"native {self._native.arithmetic}"
        return own | {
            "kind": "onnx",
            "onnxruntime": str(runtime().__version__),
            "tokenizers": package_version("tokenizers"),
            "features": " ".join(sorted(cpu_features())),
            "provider": self.options.provider,
            "quant": self.manifest.quant,
            "product": self._product,
            "context": str(self.context),
            "label_mass": str(self.options.label_mass),
        }

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Run each suffix after the prefix and return the label logits at its last token.

        Suffixes that there is no memory for, each by itself, are in the result's ``failed``.
        """
        require_fit(self.context, sum(map(len, prefix)), suffixes)
        hidden = np.full((len(suffixes), self.manifest.hidden), np.nan, np.float32)
        lengths = [len(suffix) for suffix in suffixes]
        if self._native is not None:
            groups = [list(range(len(suffixes)))] if suffixes else []
        else:
            groups = list(cut(lengths, self.options.batch_tokens, self._least_rows))[::-1]
        square = "" if self._native is not None else "its attention takes the square of them, and "
        failed: dict[int, str] = {}
        while groups:
            indices = groups.pop()
            try:
                hidden[indices] = self._run(prefix, [suffixes[i] for i in indices])
            except MemoryError as error:
                if self._runner.held == 0 and prefix:
                    raise ModelError(f"there is not enough memory for the instruction alone ({error})") from None
                whole = self._runner.held == sum(1 for segment in prefix if len(segment))
                if whole and len(indices) > 1:
                    middle = len(indices) // 2
                    groups += [indices[middle:], indices[:middle]]
                    continue
                if not whole:  # it is the query that there is no room for
                    indices, groups = [i for group in (indices, *groups) for i in group], []
                for i in indices:
                    failed[i] = (
                        f"there is not enough memory for a prompt of {sum(map(len, prefix)) + lengths[i]:,} tokens "
                        f"({error}); {square}a shorter context cuts the document"
                    )
        cap = self.manifest.final_cap
        logits = label_logits(hidden, self._head.rows(labels), cap)
        return Scores(logits, self._head.log_totals(hidden, cap) if self.options.label_mass else None, failed)

    def close(self) -> None:
        """Free the model."""
        self._runner.close()

    def _run(self, prefix: Sequence[Ids], documents: Sequence[Ids]) -> Floats:
        if not self.options.reuse:
            self._runner.forget()
        return self._runner.hidden(documents, self._runner.hold(prefix)) + self._correction

    def _open_native(self, folder: Path, embedding: TokenTable) -> NativePass | None:
        """Open the engine's own pass, where it can take the place of the graphs."""
        options, manifest = self.options, self.manifest
        wanted = options.native and options.provider == PROVIDERS["cpu"] and options.profile is None
        # where a recipe smooths the down product's input, the prefix graph has other weights, which no fact names
        one_weight = manifest.recipe.get("prefix") == "weights" and manifest.recipe.get("smooth_down") in ("0.0", None)
        if not wanted or not one_weight or native_kind() == "none":
            return None
        facts = read_document_facts(folder, manifest)
        return NativePass(folder, manifest, facts, embedding, self.threads) if facts is not None else None
