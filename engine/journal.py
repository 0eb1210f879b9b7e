"""The journal of a run: every outcome as it is reached, so that a killed run loses at most one batch.

One line a record: eight hex digits of the CRC-32 of the rest, a space, JSON, a line feed. A torn last line is cut
off when the journal is opened again; a line whose checksum does not fit is reported and its pair done again. The
first line holds the digest of the run's identity.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from pairgrade.disk import refused
from pairgrade.errors import ResumeError, StorageError
from pairgrade.records import Judgment

_log = logging.getLogger(__name__)
_GO_ON = "everything before is kept: make room and run the same command again"
_SYNC_SECONDS = 1.0  # at most this much work can be lost to a power cut; a killed process loses none of it


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one row of the input."""

    row: int
    judgment: Judgment | None
    reason: str | None = None  # why there is no judgment


class Journal:
    """An append-only file of entries; ``append`` returns when the system has the bytes."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        _start(path, identity)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._synced = time.monotonic()

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Add entries and return the byte offset of each.

        StorageError where the disk refuses, after what was written of them is cut off again.
        """
        lines = [_line(_pack(entry)) for entry in entries]
        data = b"".join(lines)
        size = self.end
        try:
            _write_all(self._file, data)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._force()
        except OSError as error:
            os.ftruncate(self._file, size)
            raise refused(self._path, error, f"the next records need {len(data):,} bytes", _GO_ON) from error
        return list(accumulate(map(len, lines[:-1]), initial=size)) if lines else []

    @property
    def end(self) -> int:
        """The byte offset behind the last entry."""
        return os.fstat(self._file).st_size

    def forget(self, end: int) -> None:
        """Cut off the entries behind an offset that ``end`` was."""
        os.ftruncate(self._file, end)
        self.sync()

    def sync(self) -> None:
        """Force what was appended to the disk; StorageError where it refuses."""
        try:
            self._force()
        except OSError as error:
            raise refused(self._path, error, f"it holds {self.end:,} bytes", _GO_ON) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _force(self) -> None:
        os.fsync(self._file)
        self._synced = time.monotonic()


def read_entries(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield (byte offset, entry) of every sound record, and warn of the others."""
    with path.open("rb") as file:
        offset = len(file.readline())
        for line in file:
            entry = _entry(line)
            if entry is None:
                _log.warning("%s: the record at byte %d is damaged; its pair is done again", path, offset)
            else:
                yield offset, entry
            offset += len(line)


def read_entry(file: int, offset: int) -> Entry:
    """Read the entry at an offset that ``read_entries`` gave, from a file descriptor."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.pread(file, 1024, offset + len(line))
        if not chunk:
            break
        line += chunk[: chunk.find(b"\n") + 1] if b"\n" in chunk else chunk
    entry = _entry(line)
    if entry is None:
        raise StorageError(f"the journal changed under the run, at byte {offset}; run the same command again")
    return entry


def _start(path: Path, identity: str) -> None:
    """Make the journal, or cut its torn tail; ResumeError where it belongs to another run."""
    header = _line(json.dumps({"journal": 1, "run": identity}).encode())
    try:
        with path.open("rb+") as file:
            first = file.readline()
            if _payload(first) is not None and first != header:
                raise ResumeError(f"{path} is the journal of another run")
            if first != header and first.endswith(b"\n"):
                _mend_header(path, file.fileno(), header, first)
            if first.endswith(b"\n"):
                _cut_torn_tail(file.fileno(), len(header))
                return
    except FileNotFoundError:
        pass
    with path.open("wb") as file, _head(path, header):  # new, or killed before its first line was whole
        _write_all(file.fileno(), header)
        os.fsync(file.fileno())


def _mend_header(path: Path, file: int, header: bytes, found: bytes) -> None:
    """Write a damaged first line again; the run's manifest has told already whose journal it is."""
    if len(found) != len(header):
        raise ResumeError(f"{path} is damaged in its first line; remove it to begin again")
    _log.warning("%s: the first line is damaged; it is written again and the records are kept", path)
    with _head(path, header):
        os.pwrite(file, header, 0)


@contextmanager
def _head(path: Path, header: bytes) -> Iterator[None]:
    """Turn the disk's refusal of the first line into a StorageError."""
    try:
        yield
    except OSError as error:
        raise refused(path, error, f"its first line needs {len(header):,} bytes", _GO_ON) from error


def _cut_torn_tail(file: int, start: int) -> None:
    """Truncate behind the last line feed."""
    end = os.fstat(file).st_size
    position = end
    while position > start:
        step = min(4096, position - start)
        found = os.pread(file, step, position - step).rfind(b"\n")
        if found >= 0:
            position = position - step + found + 1
            break
        position -= step
    if position < end:
        os.ftruncate(file, position)


def _line(payload: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def _payload(line: bytes) -> bytes | None:
    """Return a line's JSON, or None where the line is damaged."""
    payload = line[9:-1]
    return payload if line == _line(payload) else None


def _pack(entry: Entry) -> bytes:
    j = entry.judgment
    if j is None:
        return json.dumps([entry.row, entry.reason]).encode()
    fields = (j.query_id, j.doc_id, j.grade, j.probabilities, j.expected_grade, j.label_mass)
    counts = (j.truncated, j.prompt_tokens, j.document_tokens, j.cut_tokens)
    return json.dumps([entry.row, *fields, *counts], allow_nan=False, separators=(",", ":")).encode()


def _entry(line: bytes) -> Entry | None:
    """Return a line's entry, or None where the line is damaged or, though its checksum fits, no entry."""
    try:
        row, *fields = json.loads(_payload(line) or b"")
        if len(fields) == 1:
            return Entry(int(row), None, str(fields[0]))
        fields[3] = tuple(fields[3])
        return Entry(int(row), Judgment(*fields))
    except (ValueError, TypeError, IndexError, RecursionError):
        return None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
