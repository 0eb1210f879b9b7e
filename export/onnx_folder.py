"""Writing an ONNX folder: tables, tokenizer, calibration, graphs, manifest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pairgrade.errors import InputError, ModelError
from pairgrade.export.decoder import Decoder, read_decoder
from pairgrade.export.measure import Task
from pairgrade.export.onnx_calibrate import Calibrated, Ranges, calibrate, mean_hidden
from pairgrade.export.onnx_facts import FactsWriter, can_be_told
from pairgrade.export.onnx_fit import fit_layer
from pairgrade.export.onnx_graph import DecoderGraph
from pairgrade.export.onnx_layers import read_final_norm, read_layer
from pairgrade.export.onnx_linear import (
    FloatLinear,
    Linear,
    ObservedLinear,
    Rowwise,
    Static8Linear,
    Tensor8Linear,
    Token8Linear,
    Weight4Linear,
    Weight8Linear,
)
from pairgrade.export.onnx_recipe import RECIPES, Recipe
from pairgrade.export.onnx_rotate import make_rotation
from pairgrade.export.onnx_smooth import smooth_down, smooth_norms
from pairgrade.export.onnx_writer import OPSET, DataFile
from pairgrade.export.weights import Weights, finite, require_tied_head
from pairgrade.file_hashes import folder_sha256s
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.onnx_manifest import (
    CORRECTION,
    DOCUMENTS,
    EMBEDDING,
    FACTS,
    HEAD,
    PREFIX,
    PROBE,
    WEIGHTS,
    OnnxManifest,
)
from pairgrade.onnx_probe import probe_model
from pairgrade.onnx_session import product_kind
from pairgrade.onnx_table import TokenTable, save_table
from pairgrade.prompt import Prompt, PromptBuilder, chat_in_force, fitting_prompts

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
_CONTEXT = 2048  # of the calibration, where none is given


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """What is written, and how."""

    quant: str = "int8"  # one of RECIPES
    recipe: Recipe | None = None  # how; None: the one that belongs to ``quant``
    calibration: Task | None = None  # the pairs, and the prompts, that the recipe takes its numbers from
    threads: int | None = None  # of the calibration; None: the physical cores that this process may use
    context: int | None = None  # its longest prompt in tokens; None: 2,048 or what the model was trained with, if less

    def __post_init__(self) -> None:
        if self.quant not in RECIPES:
            raise InputError(f"quantization '{self.quant}'; of ONNX there are {', '.join(RECIPES)}")
        if self.how.is_calibrated and not (self.calibration and self.calibration.pairs):
            raise InputError(f"{self.quant} needs pairs to calibrate on, and none were given")

    @property
    def how(self) -> Recipe:
        """The recipe in force."""
        return self.recipe or RECIPES[self.quant]

    @property
    def calibrated_on(self) -> Task | None:
        """The calibration, where the recipe has one."""
        return self.calibration if self.how.is_calibrated else None


def write_onnx(source: Path, work: Path, settings: OnnxSettings) -> OnnxManifest:
    """Write a transformers folder's model into an empty folder; ModelError where it is not one that is known."""
    decoder, weights = read_decoder(source), Weights(source)
    require_tied_head(decoder, weights)
    _write_tables(work, source, decoder, weights)
    recipe, prompts, found = settings.how, [], None
    if recipe.is_calibrated:
        prompts = _prompts(source, settings, decoder)
        found = _calibrated(work, prompts, settings, decoder, weights)
    ranges = found.ranges if found else {}
    _write_graphs(work, decoder, weights, recipe, _linears(recipe, ranges, decoder.layers), ranges)
    if settings.quant == "int8":
        (work / PROBE).write_bytes(probe_model())
    if found and recipe.correct:
        _write_correction(work, prompts, settings, decoder, found)
    return _write_manifest(work, settings, decoder)


def _linears(recipe: Recipe, ranges: Ranges, layers: int) -> tuple[Linear, Linear]:
    """Return how the document graph and the prefix graph multiply."""
    documents: Linear
    if recipe.weights == 0:
        documents = FloatLinear()
    elif recipe.weights == 4:
        documents = Weight4Linear()
    else:
        # behind the last attention there are only the last tokens: too few for ranges, and for their own to cost much
        few = [f"layer.{layers - 1}.{part}" for part in ("out", "gate", "up", "down")]
        kinds: dict[str, Linear] = {
            "float": Weight8Linear(), "static": Static8Linear(ranges, few), "token": Token8Linear(recipe.tail),
            "tensor": Tensor8Linear(),
        }  # fmt: skip
        documents = kinds[recipe.activations]
    if recipe.prefix == "weights" and recipe.weights == 8:
        return documents, Weight8Linear()
    return documents, FloatLinear() if recipe.prefix == "float" else documents


def _calibrated(
    work: Path, prompts: Sequence[Prompt], settings: OnnxSettings, decoder: Decoder, weights: Weights
) -> Calibrated:
    """Run full-precision graphs, which are removed again."""
    folder = work / "calibration"
    folder.mkdir()
    observed = ObservedLinear(settings.how.fit)
    seen = replace(settings.how, norm_block=0)  # normalized values are turned behind what is made of their ranges
    _write_graphs(folder, decoder, weights, seen, (observed, observed))
    embedding = TokenTable(work / EMBEDDING, decoder.vocabulary, decoder.hidden)
    with_prefix = settings.how.prefix == "same"
    found = calibrate(folder, embedding, prompts, with_prefix=with_prefix, threads=settings.threads)
    shutil.rmtree(folder)
    return found


def _write_correction(
    work: Path, prompts: Sequence[Prompt], settings: OnnxSettings, decoder: Decoder, found: Calibrated
) -> None:
    """Write what the mean last hidden state lost by rounding."""
    embedding = TokenTable(work / EMBEDDING, decoder.vocabulary, decoder.hidden)
    product = product_kind(work / PROBE) if settings.quant == "int8" else "float"
    rounded = mean_hidden(work, embedding, prompts, product, threads=settings.threads)
    correction = found.hidden - rounded
    if not np.isfinite(correction).all():
        raise ModelError("the rounded model gives no finite numbers on the calibration's prompts: it cannot be used")
    np.save(work / CORRECTION, correction, allow_pickle=False)


def _prompts(source: Path, settings: OnnxSettings, decoder: Decoder) -> list[Prompt]:
    task, context = settings.calibration, settings.context or min(_CONTEXT, decoder.context)
    assert task  # the settings see to it
    tokenizer = FolderTokenizer(source)
    chat = chat_in_force(task.chat, tokenizer, has_chat_template(source))
    builder = PromptBuilder(task.rubric, tokenizer, context, chat)
    needed = f"calibration pairs fits the context of {context:,} tokens"
    return list(fitting_prompts(builder, task.pairs, needed).values())


def _write_graphs(
    folder: Path,
    decoder: Decoder,
    weights: Weights,
    recipe: Recipe,
    linears: tuple[Linear, Linear],
    ranges: Ranges | None = None,
) -> None:
    """Write both graphs; ``ranges`` is brought up to date where a recipe smooths."""
    rotation = make_rotation(decoder, recipe)
    with DataFile(folder / WEIGHTS) as data:
        graphs = [
            DecoderGraph(decoder, linear, rotation, data, prefix=is_prefix)
            for linear, is_prefix in zip(linears, (False, True), strict=True)
        ]
        facts = None
        if isinstance(linears[0], Rowwise) and rotation.residual is None and can_be_told(decoder, rotation):
            facts = FactsWriter(decoder, linears[0], rotation, data)
        for index in range(decoder.layers):
            layer = rotation.turn(read_layer(weights, decoder, index), decoder, index)
            if ranges and recipe.smooth_norms:
                layer = smooth_norms(layer, ranges, index, recipe.smooth_norms)
            layer = rotation.turn_norms(layer)
            if ranges and recipe.fit:
                rotation.turn_together(ranges, index)
                layer = fit_layer(layer, ranges, index)
            documents, prefix = graphs
            if recipe.prefix != "same":  # its first tokens have outliers elsewhere in the down input than documents
                prefix.add_layer(index, layer)
            if ranges and recipe.smooth_down:
                layer = smooth_down(layer, ranges, index, recipe.smooth_down, powers=recipe.smooth_powers)
            documents.add_layer(index, layer)
            if facts is not None:
                facts.add_layer(index, layer)
            if recipe.prefix == "same":
                prefix.add_layer(index, layer)
        final_norm = read_final_norm(weights, decoder)
        for graph in graphs:
            graph.finish(final_norm)
        if facts is not None:
            facts.write(folder / FACTS, final_norm)
    for graph, name in zip(graphs, (DOCUMENTS, PREFIX), strict=True):
        graph.write(folder / name)


def _write_tables(work: Path, source: Path, decoder: Decoder, weights: Weights) -> None:
    tables = {EMBEDDING: "model.embed_tokens.weight"} | ({} if decoder.tied else {HEAD: "lm_head.weight"})
    for file, name in tables.items():
        table = finite(weights, name)
        if table.shape != (decoder.vocabulary, decoder.hidden):
            raise ModelError(f"{name} is {table.shape}, not {(decoder.vocabulary, decoder.hidden)} as the config says")
        save_table(work / file, table)
    for file in _TOKENIZER_FILES:
        if (source / file).is_file():
            shutil.copyfile(source / file, work / file)


def _write_manifest(work: Path, settings: OnnxSettings, decoder: Decoder) -> OnnxManifest:
    manifest = OnnxManifest(
        quant=settings.quant,
        opset=OPSET,
        family=decoder.family,
        vocabulary=decoder.vocabulary,
        hidden=decoder.hidden,
        layers=decoder.layers,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        context=decoder.context,
        final_cap=decoder.final_cap,
        tied=decoder.tied,
        recipe=settings.how.describe(),
        files=folder_sha256s(work),
    )
    manifest.write(work)
    return manifest
