"""An annotator of the experiment that is given by its judgments: made elsewhere, on a machine with a GPU, say."""

from __future__ import annotations

from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.judgments import open_writer, read_judgments
from pairgrade.onnx_manifest import is_onnx_folder
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair
from pairgrade.rubric import Rubric


def judgments_of(reference: str, collection: str) -> Path | None:
    """Return the collection's file in a folder of judgments, COLLECTION.jsonl each; None where it is a model.

    InputError where the folder holds judgments, and none of this collection.
    """
    folder = Path(reference)
    if not folder.is_dir() or not list(folder.glob("*.jsonl")):
        return None
    if any(is_onnx_folder(place) for place in (folder, *folder.iterdir())) or list(folder.glob("*.gguf")):
        return None
    path = folder / f"{collection}.jsonl"
    if not path.is_file():
        raise InputError(f"{folder} holds judgments, and not {path.name}: one file a collection that is to be judged")
    return path


def take_judgments(source: Path, pairs: Path, rubric: Rubric, out: Path) -> None:
    """Write the judgments of the pairs, in the order of the source.

    InputError where it has other grades than the rubric, or lacks a pair.
    """
    wanted = {(row.query_id, row.doc_id) for row in read_pairs(Source(str(pairs))) if isinstance(row, Pair)}
    file = read_judgments(source)
    file.require(rubric.values)
    with open_writer(out, file.grades) as writer:
        for judgment in file:
            if (judgment.query_id, judgment.doc_id) in wanted:
                writer.write(judgment)
                wanted.remove((judgment.query_id, judgment.doc_id))
        if wanted:
            query, document = min(wanted)
            raise InputError(
                f"{source} lacks {len(wanted):,} of the pairs, such as query {query} and document {document}; label "
                f"{pairs} with the annotator, or give the annotator itself"
            )
