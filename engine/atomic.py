"""Files that appear whole or not at all.

The bytes go to a hidden file beside the target, are flushed to the disk, and only then take the target's
name in one step. A reader sees the old file or the new one, never a part; after a crash at most the hidden
file is left, and the next writer with its process id takes that over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from pairgrade.errors import InputError, StorageError

_BUFFER = 1 << 20  # bytes gathered before a write
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class AtomicFile:
    """A binary file that replaces its target when the ``with`` block ends without an exception.

    ``commit`` may also be called inside the block, to do it earlier. A symbolic link keeps pointing where it
    did: the file behind it is replaced. Failures of the disk are raised as ``StorageError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = Path(os.path.realpath(path))
        self._temp = self._target
        self._fd: int | None = None
        self._buffer = bytearray()
        self._on_disk = 0  # bytes that the system has taken

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._fd is None

    def __enter__(self) -> AtomicFile:
        try:
            mode = self._existing_mode()
            self._temp = self._target.with_name(f".{self._target.name}.{os.getpid()}.tmp")
            self._fd = os.open(self._temp, _FLAGS, 0o666 if mode is None else mode)
            if mode is not None and hasattr(os, "fchmod"):  # of which the umask took some away
                with contextlib.suppress(OSError):
                    os.fchmod(self._fd, mode)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise self._failed(error, f"the folder {self.path.parent} does not exist") from error
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self.closed:
            self.commit()

    def write(self, data: bytes) -> int:
        """Add bytes to the file and return how many."""
        self._open_fd()
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self.flush()
        return len(data)

    def tell(self) -> int:
        """Return how many bytes were added so far."""
        return self._on_disk + len(self._buffer)

    def flush(self) -> None:
        """Hand the gathered bytes to the system."""
        pending = bytes(self._buffer)
        self._buffer.clear()
        while pending:
            try:
                count = os.write(self._open_fd(), pending)
            except OSError as error:
                self._buffer[:0] = pending
                raise self._failed(error) from error
            self._on_disk += count
            pending = pending[count:]

    def commit(self) -> None:
        """Put the file in its place, durably."""
        try:
            self.flush()
            os.fsync(self._open_fd())
            os.close(self._take_fd())
            os.replace(self._temp, self._target)
        except OSError as error:
            self.abort()
            if isinstance(error, StorageError):
                raise
            raise self._failed(error) from error
        except BaseException:
            self.abort()
            raise
        self._temp = self._target
        self._sync_folder()

    def abort(self) -> None:
        """Remove what was written; nothing happens after ``commit`` or a second time."""
        if self._temp == self._target:
            return
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._take_fd())
        with contextlib.suppress(OSError):
            self._temp.unlink(missing_ok=True)
        self._temp = self._target

    def _open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is not open for writing; use it in a with block")
        return self._fd

    def _take_fd(self) -> int:
        descriptor, self._fd = self._open_fd(), None
        return descriptor

    def _existing_mode(self) -> int | None:
        """Return the permissions of the file that this one replaces, if there is one."""
        try:
            mode = self._target.stat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise InputError(f"{self.path} is {what}; give the path of a file to write")
        return stat.S_IMODE(mode)

    def _sync_folder(self) -> None:
        if os.name == "nt":  # folders cannot be opened there
            return
        try:
            folder = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot sync folders
                message = f"{self.path} was written, but not its folder: {error.strerror}"
                raise _storage_error(error, message) from error

    def _failed(self, error: OSError, reason: str | None = None) -> StorageError:
        message = f"cannot write {self.path}: {reason or error.strerror or error}"
        if self.tell():
            message += f", with {self.tell():,} bytes to store of which {self._on_disk:,} were written"
        if error.errno == errno.ENOSPC:
            message += "; make room and run again"
        return _storage_error(error, message)


def _storage_error(error: OSError, message: str) -> StorageError:
    failed = StorageError(message)
    failed.errno = error.errno
    return failed


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file at once."""
    with AtomicFile(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole file of UTF-8 text at once, line ends as they are."""
    write_bytes(path, text.encode())
