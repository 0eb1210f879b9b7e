"""Writing ONNX graphs node by node, their weights in a data file that several graphs share."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pairgrade.advisories import refuse_known_bad

OPSET = 23  # the first with RMSNormalization and RotaryEmbedding
IR_VERSION = 11  # the newest that every ONNX Runtime with this opset reads
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
_ALIGNMENT = 4096  # a tensor begins on a page, so that it can be mapped
_INLINE = 1024  # bytes; smaller tensors stay in the graph


class DataFile:
    """The file of the large tensors; equal ones are written once and may be used by several graphs.

    A context manager: closed at its end.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file: IO[bytes] = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def put(self, array: npt.NDArray[Any]) -> tuple[int, int]:
        """Return (offset, bytes) of the tensor, written if it is not there yet."""
        data = np.ascontiguousarray(array).data
        name = hashlib.blake2b(data, digest_size=16).digest()
        if name not in self._places:
            self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
            self._places[name] = self._file.tell(), array.nbytes
            self._file.write(data)
        return self._places[name]

    def close(self) -> None:
        """Bring everything onto the disk."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        with contextlib.suppress(OSError):  # the error that ends the block is the first
            self._file.close()


class Graph:
    """One graph under construction, its large tensors in a file beside it.

    Methods that add something return the name of its value.
    """

    def __init__(self, name: str, data: DataFile | None = None) -> None:
        from onnx import helper

        refuse_known_bad("onnx")
        self._helper = helper
        self._name, self._data = name, data
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._count = 0

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        self._count += 1
        names = [f"{kind}_{self._count}" + (f"_{i}" if i else "") for i in range(outputs)]
        node = self._helper.make_node(kind, list(inputs), names, name=names[0], domain=domain or None, **attributes)
        self._nodes.append(node)
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """Add a small tensor; equal ones are one."""
        array = np.asarray(value, dtype)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.tensor(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def tensor(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a tensor, one by its name; a large one goes into the data file, if there is one."""
        if name not in self._initializers:
            is_large = self._data is not None and array.nbytes >= _INLINE
            self._initializers[name] = self._place(name, array) if is_large else self._inline(name, array)
        return name

    def input(self, name: str, dtype: npt.DTypeLike, shape: list[str | int]) -> str:
        """Declare an input; dimensions by name may vary."""
        self._inputs.append(self._helper.make_tensor_value_info(name, self._type(dtype), shape))
        return name

    def output(self, value: str, name: str, dtype: npt.DTypeLike, shape: list[str | int]) -> None:
        """Give a value out under a name."""
        self._nodes.append(self._helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(self._helper.make_tensor_value_info(name, self._type(dtype), shape))

    def write(self, path: Path) -> None:
        """Check the graph and write it; the data file must be closed before."""
        from onnx import checker

        graph = self._helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [self._helper.make_opsetid("", OPSET), self._helper.make_opsetid(MICROSOFT, 1)]
        model = self._helper.make_model(graph, producer_name="pairgrade", opset_imports=opsets, ir_version=IR_VERSION)
        path.write_bytes(model.SerializeToString(deterministic=True))
        checker.check_model(str(path))

    def _inline(self, name: str, array: npt.NDArray[Any]) -> Any:
        from onnx import numpy_helper

        return numpy_helper.from_array(np.ascontiguousarray(array), name)

    def _place(self, name: str, array: npt.NDArray[Any]) -> Any:
        from onnx import TensorProto

        assert self._data is not None
        offset, length = self._data.put(array)
        proto = TensorProto(name=name, data_type=self._type(array.dtype), dims=array.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._data.name), ("offset", str(offset)), ("length", str(length))):
            proto.external_data.add(key=key, value=value)
        return proto

    def _type(self, dtype: npt.DTypeLike) -> int:
        return int(self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
