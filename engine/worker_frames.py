"""Messages between a process and its worker: a JSON header and whole arrays, over a socket.

A frame is two little-endian numbers (bytes of the header, bytes of the arrays), the header and the arrays' bytes one
after the other. The header's ``arrays`` gives the type and the length of each. Nothing is ever unpickled: what a
worker sends can be wrong, but it cannot run.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SIZES = struct.Struct("<IQ")
_LONGEST_HEADER = 2**26  # bytes
_LONGEST_BODY = 2**34
_TYPES: dict[str, np.dtype[Any]] = {"<i4": np.dtype(np.int32), "<f4": np.dtype(np.float32), "<f8": np.dtype(np.float64)}


class BrokenFrameError(Exception):
    """The other side is gone, or sent what is no frame."""


def send(channel: socket.socket, header: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Send one frame; BrokenFrameError where nobody listens any more."""
    table = header | {"arrays": [[array.dtype.str, array.size] for array in arrays]}
    text = json.dumps(table, separators=(",", ":")).encode()
    body = b"".join(array.tobytes() for array in arrays)
    try:
        channel.sendall(_SIZES.pack(len(text), len(body)) + text + body)
    except OSError as error:
        raise BrokenFrameError(str(error)) from None


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[Array]]:
    """Wait for one frame; BrokenFrameError where the other side closed the socket, TimeoutError as it is set there."""
    length, size = _SIZES.unpack(_read(channel, _SIZES.size))
    if length > _LONGEST_HEADER or size > _LONGEST_BODY:
        raise BrokenFrameError(f"a frame of {length} and {size} bytes")
    try:
        header = json.loads(_read(channel, length))
        kinds = [(_TYPES[kind], int(count)) for kind, count in header.pop("arrays")]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BrokenFrameError("a frame whose header cannot be read") from None
    if any(count < 0 for _, count in kinds) or sum(kind.itemsize * count for kind, count in kinds) != size:
        raise BrokenFrameError("a frame whose arrays are not as long as its header says")
    body = _read(channel, size)
    arrays, start = [], 0
    for kind, count in kinds:
        arrays.append(np.frombuffer(body, kind, count, start))
        start += kind.itemsize * count
    return header, arrays


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            count = channel.recv_into(view)
        except TimeoutError:
            raise
        except OSError as error:
            raise BrokenFrameError(str(error)) from None
        if not count:
            raise BrokenFrameError("the other side closed the connection")
        view = view[count:]
    return bytes(data)
