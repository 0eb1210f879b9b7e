"""The end of a run: outcomes out of the journal, in the input's order, into the output and the errors file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pairgrade.atomic import AtomicFile
from pairgrade.journal import read_entry
from pairgrade.judgments import open_writer
from pairgrade.spool import Spool
from pairgrade.summary import Tally, TallyCounter


def write_outputs(
    out: Path,
    grades: Sequence[int],
    journal: Path,
    offsets: npt.NDArray[np.int64],
    spool: Spool,
    errors: Path,
) -> Tally:
    """Write ``out`` and, if any row has no judgment, ``errors``; both appear whole or not at all.

    ``offsets[row]`` is where in the journal a row's outcome lies, or -1.
    """
    counter = TallyCounter()
    unfit = array("q")  # rows without a judgment
    with journal.open("rb") as file, open_writer(out, grades) as writer:
        for row, offset in enumerate(offsets):
            if offset < 0:
                continue
            entry = read_entry(file.fileno(), int(offset))
            if entry.judgment is None:
                unfit.append(row)
            else:
                writer.write(entry.judgment)
                counter.add(entry.judgment)
        rejected = spool.rejected()
        if rejected or unfit:
            reasons = ((row, read_entry(file.fileno(), int(offsets[row])).reason or "") for row in unfit)
            _write_errors(errors, spool, reasons)
        else:
            errors.unlink(missing_ok=True)
    return counter.total(rejected, len(unfit))


def _write_errors(path: Path, spool: Spool, unfit: Iterable[tuple[int, str]]) -> None:
    with AtomicFile(path) as file:
        for item in spool.rejections():
            record = {"source": item.source, "line": item.line, "reason": item.reason}
            ids = {"query_id": item.query_id, "doc_id": item.doc_id}
            file.write(_line(record | ids))
        for row, reason in unfit:
            pair, line = spool.pair(row)
            ids = {"query_id": pair.query_id, "doc_id": pair.doc_id}
            file.write(_line({"source": spool.name, "line": line, "reason": reason} | ids))


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
