"""``pairgrade merge``: an adapter folded into its base, and proof that nothing else changed."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.atomic import write_text
from pairgrade.environment import package_version
from pairgrade.errors import ModelError
from pairgrade.export.causal_model import quiet_transformers
from pairgrade.export.output import new_folder, require_absent
from pairgrade.export.provenance import base_name, history
from pairgrade.export.torch_backend import load_folder
from pairgrade.file_hashes import MANIFEST, folder_sha256s
from pairgrade.folder_check import check_folder
from pairgrade.prompt import fitting_prompts
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.train.adapter import read_manifest
from pairgrade.train.base_model import folder_digest
from pairgrade.train.dequantize import base_source, quant_before
from pairgrade.train.options import TrainOptions
from pairgrade.train.prompts import builder_of
from pairgrade.trained_prompt import TrainedPrompt, read_trained_prompt, rubric_in_force

_log = logging.getLogger(__name__)
_NOT_ITS_BASE = (
    "a base in 4 bits (--qlora), and is merged into that base in full precision: the training's validation figures "
    "are not those of the merged model, so measure it with `pairgrade label` and `pairgrade agree`"
)
TOLERANCE = 1e-4  # of the largest logit, over the whole vocabulary
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge measured."""

    out: Path
    base: Path
    adapter: Path
    prompts: int
    moved: float  # the largest difference that the adapter makes to a logit
    difference: float  # the largest between merged and adapter-on logits, as a share of the largest logit


def merge(
    adapter: Path,
    out: Path,
    pairs: Sequence[Pair],
    rubric: Rubric | None = None,
    base: Path | None = None,
    threads: int | None = None,
) -> Merged:
    """Fold an adapter into its base in float32, and write the model as a transformers folder.

    The prompts are those of the training, and so is the rubric unless another is given.

    Merged and adapter-on logits are compared at the cue of each pair's prompt over the whole vocabulary; where they
    differ by more than 1e-4 of the largest logit nothing is written and ModelError tells. ModelError also where the
    base is not the one that the adapter was trained on.
    """
    require_absent(out)
    manifest = read_manifest(adapter)
    check_folder(adapter, adapter=True)
    folder = base or Path(manifest["base"])
    if not os.path.isdir(folder):  # False also for a name that no folder can have
        raise ModelError(f"the adapter's base {folder} is not there; say where it is now with --base")
    check_folder(folder)
    _check_base(adapter, manifest, folder)
    trained = read_trained_prompt(adapter)
    if trained is None:
        raise ModelError(f"{adapter}: its {MANIFEST} does not tell the prompt of the training; train it again")
    rubric = rubric_in_force(rubric, adapter, trained)
    if trained.rubric is None and rubric.digest == trained.digest:
        trained = replace(trained, rubric=rubric)
    builder = builder_of(folder, rubric, TrainOptions(context=trained.context, chat=trained.chat))
    needed = "pairs fits the context that the adapter was trained for"
    prompts = [prompt.ids for prompt in fitting_prompts(builder, pairs, needed).values()]
    model = load_folder(folder, threads)  # float32, on any machine
    plain = _logits(model, prompts)
    with quiet_transformers():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter), use_safetensors=True)
    with_adapter = _logits(model, prompts)
    model = model.merge_and_unload(safe_merge=True)
    merged = _logits(model, prompts)
    largest = float(np.abs(with_adapter).max())
    found = Merged(
        out=out,
        base=folder,
        adapter=adapter,
        prompts=len(prompts),
        moved=float(np.abs(with_adapter - plain).max()),
        difference=float(np.abs(merged - with_adapter).max()) / largest,
    )
    if not found.moved:
        raise ModelError(
            f"{adapter} moves no logit of {len(prompts)} prompts: its weights are zeros, or have names that none of "
            "the base's layers has under this version of peft; nothing was written"
        )
    if not found.difference <= TOLERANCE:
        raise ModelError(
            f"{adapter}: merged and adapter-on logits differ by {found.difference:.1e} of the largest logit on "
            f"{len(prompts)} prompts; at most {TOLERANCE:.0e} is allowed, and nothing was written"
        )
    if _in_4_bits(manifest):
        _log.warning("%s was trained beside %s", adapter, _NOT_ITS_BASE)
    with new_folder(out) as work:
        _save(model, folder, work)
        trained.write(work)
        _describe(work, found, manifest, trained)
    return found


def _in_4_bits(manifest: dict[str, Any]) -> bool:
    return str(manifest["identity"].get("option.qlora")) == "True"


def _check_base(adapter: Path, manifest: dict[str, Any], base: Path) -> None:
    if folder_digest(base) != manifest["identity"].get("base"):
        raise ModelError(f"{base} is not the base that {adapter} was trained on: its weights or tokenizer differ")


def _logits(model: Any, prompts: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float32]:
    import torch

    model.eval()
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.from_numpy(prompt[None].astype(np.int64)).to(model.device)
            rows.append(model(input_ids=ids, logits_to_keep=1, use_cache=False).logits[0, -1].float().cpu().numpy())
    return np.stack(rows)


def _save(model: Any, base: Path, work: Path) -> None:
    with quiet_transformers():
        model.save_pretrained(str(work))
    for name in _TOKENIZER_FILES:  # as they are: a tokenizer that was written anew may be another one
        if (base / name).is_file():
            shutil.copyfile(base / name, work / name)


def _describe(work: Path, found: Merged, manifest: dict[str, Any], trained: TrainedPrompt) -> None:
    source = manifest.get("base_source") or base_source(found.base)  # adapters of before do not tell it
    base = {"base": str(found.base.resolve()), "base_source": source}
    card = [
        f"# {found.out.name}",
        "",
        f"`{base_name(base)}` with the LoRA adapter `{found.adapter.name}` folded in, in float32: an annotator that "
        f"grades query-document pairs by the rubric `{manifest['rubric']}`"
        f"{' (rubric.toml)' if trained.rubric else ''}, in prompts of at most {trained.context} tokens.",
        "",
        f"On {found.prompts} prompts its logits equal those of the adapter beside the base to {found.difference:.1e} "
        "of the largest logit.",
        "",
        *([f"The adapter was trained beside {_NOT_ITS_BASE}.", ""] if _in_4_bits(manifest) else []),
        *history(manifest | base, trained),
        "The licence is that of the base model. Next: `pairgrade export`, which makes GGUF or ONNX of it.",
    ]
    write_text(work / "README.md", "\n".join(card) + "\n")
    table = {
        "kind": "model",
        **base,
        "base_quant": quant_before(found.base),
        "adapter": {"name": found.adapter.name, "files": manifest["files"]},
        "identity": manifest["identity"],
        "validation": manifest["validation"],
        "merge": {key: value for key, value in asdict(found).items() if key in ("prompts", "moved", "difference")},
        "versions": {name: package_version(name) for name in ("pairgrade", "torch", "transformers", "peft")},
        "files": folder_sha256s(work),
    }
    write_text(work / MANIFEST, json.dumps(table, indent=2, allow_nan=False) + "\n")
