from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pairgrade.diagnosis import exact_product
from pairgrade.onnx_probe import probe_model
from pairgrade.onnx_session import open_session, product_kind

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "probe.onnx").write_bytes(probe_model())
    return tmp_path / "probe.onnx"


def test_the_probe_is_the_model_that_it_says(path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 23, "com.microsoft": 1}
    assert model.SerializeToString(deterministic=True) == probe_model()  # nothing in it that onnx does not know
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert weight.dtype == np.int8
    assert weight.shape == (64, 8)
    assert (weight == 127).all()


def test_the_doctor_finds_the_product_that_the_engine_uses(path: Path) -> None:
    kind = product_kind(path)
    assert exact_product() == kind
    value = np.random.default_rng(0).integers(0, 256, (8, 64)).astype(np.uint8)
    sums = open_session(path, 1, "CPUExecutionProvider", product=kind).run(None, {"x": value})[0]
    np.testing.assert_array_equal(sums, np.repeat(value.sum(1, dtype=np.int64)[:, None] * 127, 8, 1))
