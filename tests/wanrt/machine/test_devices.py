"""Devices from their file, this machine's CPU by a clock, and what is predicted of both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path

import onnx
import pytest

from wanrt.errors import WanrtError
from wanrt.machine.cpu_rates import measure_cpu
from wanrt.machine.devices import (
    DeviceRates,
    devices_file,
    find_device,
    load_devices,
    recognise_device,
)
from wanrt.machine.predict import predict_forward

TOY = DeviceRates(
    name="toy",
    full_name="Toy",
    tflops={"fp32": 1, "bf16": 10},
    bandwidth_gb_s=100,
    memory_gb=1,
    source="made up",
)
GOOD = """
[toy]
full_name = "Toy"
names = ["Toy GPU"]
tflops = { bf16 = 10 }
bandwidth_gb_s = 100
memory_gb = 1
source = "made up"
"""


def test_a_prediction_worked_by_hand() -> None:
    flops = {"ffn": 20 * 10**12, "lora": 10**12}
    moved = {"ffn": 10**11, "lora": 4 * 10**11, "norms": 5 * 10**10}
    found = predict_forward(flops, moved, TOY, "bf16")
    # ffn computes 2 s and moves 1 s; lora 0.1 s and 4 s; norms move 0.5 s
    assert found.parts_s == pytest.approx({"ffn": 2, "lora": 4, "norms": 0.5})
    assert found.seconds == pytest.approx(6.5)
    assert (found.device, found.dtype) == ("toy", "bf16")
    slower = predict_forward(flops, moved, TOY, "fp32")
    assert slower.parts_s == pytest.approx({"ffn": 20, "lora": 4, "norms": 0.5})


def test_a_dtype_without_a_rate_is_refused() -> None:
    with pytest.raises(WanrtError, match="toy has no rate in fp16") as caught:
        predict_forward({"ffn": 1}, {"ffn": 1}, TOY, "fp16")
    assert caught.value.hint == "it has one in fp32, bf16"


# dense, accumulating in fp32: bf16, fp32, GB/s, GB; compute capability
RATES = {
    "H100": (989.5, 67, 3350, 80, "9.0"),
    "H200": (989.5, 67, 4800, 141, "9.0"),
    "A100": (312, 19.5, 2039, 80, "8.0"),
    "L40S": (362.05, 91.6, 864, 48, "8.9"),
    "RTX 4090": (165.2, 82.6, 1008, 24, "8.9"),
    "RTX 5090": (209.5, 104.8, 1792, 32, "12.0"),
}


def test_the_shipped_devices() -> None:
    devices = load_devices()
    found = {
        name: (
            d.tflops["bf16"],
            d.tflops["fp32"],
            d.bandwidth_gb_s,
            d.memory_gb,
            d.compute_capability,
        )
        for name, d in devices.items()
    }
    assert found == RATES
    for device in devices.values():
        assert device.tflops["fp16"] == device.tflops["bf16"]
        assert device.url.startswith(("https://www.nvidia.com/", "https://images.nvidia.com/"))
    # bf16 flop per byte at which computing takes as long as moving
    ridges = {name: 1e3 * rates[0] / rates[2] for name, rates in RATES.items()}
    assert ridges["H100"] == pytest.approx(295, abs=1)
    assert ridges["H200"] == pytest.approx(206, abs=1)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("unknown GPU", None),
    ],
)
def test_recognises_a_device_by_its_drivers_name(reported: str, name: str | None) -> None:
    found = recognise_device(reported, load_devices())
    assert (found and found.name) == name


@pytest.mark.parametrize("name", ["RTX 4090", "rtx4090", "rtx-4090", "Rtx_4090"])
def test_finds_a_device_by_name(name: str) -> None:
    assert find_device(name, load_devices()).name == "RTX 4090"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("H1000", "did you mean 'H100' or 'H200'?"),
        ("4090", "did you mean 'RTX 4090'"),
        ("TPU", "known: H100, H200, A100, L40S, RTX 4090, RTX 5090, cpu"),
    ],
)
def test_an_unknown_device_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(WanrtError, match=f"there is no device '{name}'") as caught:
        find_device(name, load_devices())
    assert hint in caught.value.hint


BROKEN: dict[str, tuple[str, str, str]] = {
    "unknown key": ("memory_gb", "memory_gib", "toy.memory_gib: unknown key"),
    "unknown dtype": ("bf16 =", "bf17 =", "toy.tflops.bf17: is 'bf17'; it should be 'fp32', 'fp"),
    "missing key": ('source = "made up"', "", "toy.source: missing key"),
    "no rate": ("{ bf16 = 10 }", "{}", "toy.tflops: is {}; it should be "),
    "rate 0": ("bf16 = 10", "bf16 = 0", "toy.tflops.bf16: is 0; it should be greater than 0"),
    "rate as text": ("bf16 = 10", 'bf16 = "10"', "toy.tflops.bf16: is '10'; it should be a valid"),
    "infinite": ("= 100", "= inf", "toy.bandwidth_gb_s: is inf; it should be a finite number"),
    "name": ("[toy]", '[toy]\nname = "Toy"', "toy.name: unknown key"),
    "no table": ("[toy]", "toy = 3\n[other]", "toy: is 3; it should be a table"),
    "not TOML": ("[toy]", "[toy", "devices.toml is not TOML: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    old, new, message = BROKEN[case]
    path = tmp_path / "devices.toml"
    path.write_text(GOOD)
    assert load_devices(path)["toy"].names == ("Toy GPU",)
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(WanrtError) as caught:
        load_devices(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WanrtError, match=r"devices\.toml can't be read: No such file"):
        load_devices(tmp_path / "devices.toml")
    assert devices_file().is_file()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanrt.machine.cpu_rates.SIDE", 32)
    monkeypatch.setattr("wanrt.machine.cpu_rates.COPIED_BYTES", 1 << 20)


def ticks(*seconds: float) -> Iterator[float]:
    """Yield a clock's readings: runs that take these seconds, the last of them for ever."""
    now = 0.0
    for step in (*seconds, *repeat(seconds[-1], 1000)):
        yield now
        now += step


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.usefixtures("small")
def test_the_cpus_rates_are_those_of_the_fastest_runs(dtype: str) -> None:
    product = [0.2, 0.05, 0.2]  # 0.45 s: over, after three
    copy = [0.1, 0.1, 0.02, 0.1]  # 0.32 s: over, after four
    clock = ticks(*product, 7.0, *copy)
    found = measure_cpu(dtype, threads=2, clock=lambda: next(clock))  # type: ignore[arg-type]
    assert found.tflops == pytest.approx({dtype: 2 * 32**3 / 0.05 / 1e12})
    assert found.bandwidth_gb_s == pytest.approx(2 * (1 << 20) / 0.02 / 1e9)
    assert found.name == "cpu"
    assert found.full_name.endswith(", 2 threads")
    assert "ONNX Runtime" in found.source
    assert found.memory_gb > 0


@pytest.mark.usefixtures("small")
def test_without_onnxruntime_numpy_is_measured_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    clock = count(0, 0.125)
    found = measure_cpu("fp16", clock=lambda: next(clock))
    assert found.tflops == {"fp32": pytest.approx(2 * 32**3 / 0.125 / 1e12)}
    assert "numpy" in found.source.split(",")[0]
    assert "ONNX Runtime" not in found.source


def test_the_measured_gemm_is_a_valid_model_of_the_product() -> None:
    import numpy as np
    import onnxruntime as ort

    from wanrt.machine.cpu_rates import _gemm_model

    weight = np.arange(200 * 200, dtype=np.float32).reshape(200, 200) % 7
    data = _gemm_model(1, weight)
    onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = weight.T.copy()
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x @ weight.T)
