"""A dtype has one row, whatever it is called."""

from __future__ import annotations

from typing import get_args

import pytest

from wanexport.storage.dtypes import (
    ENGINE_DTYPES,
    STORED,
    engine_dtype,
    itemsize,
    onnx_dtype,
    torch_dtype,
)
from wanrt.manifest.fields import Dtype
from wanrt.storage.dtypes import NUMPY, ONNX, SAFETENSORS


def test_every_table_has_the_engines_dtypes() -> None:
    words = set(get_args(Dtype))
    assert words == set(NUMPY) == set(ONNX) == set(SAFETENSORS) == set(ENGINE_DTYPES.values())
    assert set(SAFETENSORS.values()) <= set(STORED)


@pytest.mark.parametrize(("stored", "dtype"), ENGINE_DTYPES.items())
def test_both_names_mean_the_same(stored: str, dtype: Dtype) -> None:
    assert itemsize(stored) == itemsize(dtype) == NUMPY[dtype].itemsize
    assert onnx_dtype(stored) == onnx_dtype(dtype) == ONNX[dtype]
    assert engine_dtype(onnx_dtype(stored)) == dtype


@pytest.mark.torch
@pytest.mark.parametrize("stored", STORED)
def test_torch_has_them_in_the_same_size(stored: str) -> None:
    assert torch_dtype(stored).itemsize == itemsize(stored)
