"""The product by which the engine learns whether this processor's 8-bit sums saturate, as an ONNX model.

Written in the protobuf wire format (https://protobuf.dev/programming-guides/encoding) by hand, for an installation
that only labels has no library that writes ONNX.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MICROSOFT = "com.microsoft"
_FLOAT, _UINT8, _INT8 = 1, 2, 3  # TensorProto.DataType
_ROWS, _COLUMNS = 64, 8


def probe_model() -> bytes:
    """Return a model that multiplies ``x``, u8 (n, 64), by 127 in s8 (64, 8); ``sums`` is float32 (n, 8)."""
    weight = _tensor("w", np.full((_ROWS, _COLUMNS), 127, np.int8), _INT8)
    one = _tensor("one", np.ones((), np.float32), _FLOAT)
    ones = _tensor("ones", np.ones(_COLUMNS, np.float32), _FLOAT)
    zero = _tensor("zero", np.zeros((), np.uint8), _UINT8)
    inputs = b"".join(_field(1, name) for name in ("x", "w", "one", "ones", "zero"))
    node = inputs + _field(2, "sums") + _field(4, "MatMulIntegerToFloat") + _field(7, _MICROSOFT)
    graph = _field(1, node) + _field(2, "probe") + b"".join(_field(5, t) for t in (weight, one, ones, zero))
    graph += _field(11, _value("x", _UINT8, _ROWS)) + _field(12, _value("sums", _FLOAT, _COLUMNS))
    opsets = _field(1, "") + _number(2, 23), _field(1, _MICROSOFT) + _number(2, 1)
    return _number(1, 11) + _field(2, "pairgrade") + _field(7, graph) + b"".join(_field(8, opset) for opset in opsets)


def _tensor(name: str, array: npt.NDArray[np.generic], kind: int) -> bytes:
    shape = b"".join(_number(1, size) for size in array.shape)
    return shape + _number(2, kind) + _field(8, name) + _field(9, array.tobytes())


def _value(name: str, kind: int, columns: int) -> bytes:
    shape = _field(1, _field(2, "n")) + _field(1, _number(1, columns))
    return _field(1, name) + _field(2, _field(1, _number(1, kind) + _field(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
