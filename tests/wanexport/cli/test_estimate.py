"""`wanexport estimate`: what engines cost, and what it says of the demo and of I2V-14B."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from commands import wanexport

from wanexport.build.request import MODES, BuildRequest
from wanexport.build.resolve import resolve_targets
from wanexport.build.sources import gather
from wanexport.compiled import CompiledCost
from wanexport.cost import Outlook, predict_engines, price_engines
from wanexport.model.config import load_config
from wanexport.model.formulas import count_bytes, count_flops
from wanrt.machine.devices import DeviceRates, load_devices
from wanrt.terminal.progress import Reporter

DEMO = BuildRequest(load_config("wan2.1-i2v-demo"), ranks=(8, 32, 128))
I2V_14B = replace(DEMO, config=load_config("wan2.1-i2v-14b-480p"))
RANKS = ("--rank", 8, "--rank", 32, "--rank", 128)
CPU = DeviceRates(
    name="cpu",
    full_name="Toy CPU, 2 threads",
    tflops={"fp32": 0.2},
    bandwidth_gb_s=20,
    memory_gb=25,
    source="measured here: a test",
)


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take the toy for this machine, and collect the dtypes that are measured."""
    asked: list[str] = []

    def measure(dtype: str) -> DeviceRates:
        asked.append(dtype)
        return CPU

    monkeypatch.setattr("wanrt.machine.cpu_rates.measure_cpu", measure)
    return asked


def outlook(request: BuildRequest, device: str) -> Outlook:
    return predict_engines(request, load_devices()[device])


def test_a_build_of_these_writes_as_much(tmp_path: Path) -> None:
    request = replace(DEMO, out=tmp_path)
    plans = resolve_targets(request, gather(request, Reporter(quiet=True), dry_run=True))
    written = {(plan.mode, plan.rank or plan.max_rank): plan.write_bytes for plan in plans}
    graph = written["full", None]
    assert {key: size - graph for key, size in written.items()} == {
        (cost.mode, cost.rank): cost.write_bytes for cost in price_engines(request)
    }


def test_costs_of_i2v_14b() -> None:
    costs = {cost.label: cost for cost in price_engines(I2V_14B)}
    assert list(costs) == [
        "full", "merged r8", "merged r32", "merged r128", "separate r8", "separate r32",
        "separate r128", "swappable r128",
    ]  # fmt: skip
    assert costs["full"].parameters == costs["merged r8"].parameters == 16_394_878_784
    assert costs["full"].write_bytes == 0
    assert costs["merged r8"].write_bytes == 240 * 5120 * 5120 * 2
    assert costs["separate r32"].write_bytes == 240 * 32 * 2 * 5120 * 2
    assert costs["swappable r128"].write_bytes == 240 * (8 + 32 + 128) * 2 * 5120 * 2
    assert costs["separate r32"].parameters - costs["full"].parameters == 78_643_200
    assert costs["swappable r128"].weight_bytes == costs["full"].weight_bytes
    assert costs["merged r8"].flops == costs["full"].flops
    assert costs["separate r128"].flops == costs["swappable r128"].flops


def test_the_roofline_of_i2v_14b_on_an_h200() -> None:
    found = outlook(I2V_14B, "H200")
    forward = {
        cost.label: graphs["forward"]
        for cost, graphs in zip(found.costs, found.predictions, strict=True)
    }
    full = forward["full"]
    assert 1686.376 / 989.5 < full.seconds < 1686.376 / 989.5 + 548.1 / 4800
    assert full.parts_s["elementwise"] == pytest.approx(161.0 / 4800, rel=1e-3)
    assert forward["merged r32"].parts_s == full.parts_s
    for label in ("separate r8", "separate r32", "separate r128"):
        added = forward[label].seconds - full.seconds
        # 27 GB of q's and out's x at 4.8 TB/s take 5.6 ms, t of rank 128 another 1.4
        assert 0.0056 < added < 0.0072


def test_predictions_of_a_manifest_are_those_of_the_plan() -> None:
    dims, size = DEMO.config.architecture.dims, DEMO.config.size
    cost = price_engines(DEMO)[0]
    assert cost.flops["forward"] == count_flops(dims, size.tokens)
    assert cost.moved["forward"] == count_bytes(dims, size.tokens, 4)


def test_what_fits() -> None:
    small, smaller = outlook(I2V_14B, "RTX 5090"), outlook(I2V_14B, "RTX 4090")
    assert [small.fits(0, "forward"), small.fits(0, "step")] == [False, True]
    assert [smaller.fits(0, "forward"), smaller.fits(0, "step")] == [False, False]
    assert outlook(I2V_14B, "L40S").fits(0, "forward")


def test_says_what_i2v_14b_costs(cpu: list[str]) -> None:
    code, out, err = wanexport("estimate", "--config", "wan2.1-i2v-14b-480p", *RANKS)
    assert (code, err, cpu) == (0, "", ["fp32"])
    lines = out.splitlines()
    assert all(len(line) <= 79 for line in lines)
    assert lines[:2] == [
        "wan2.1-i2v-14b-480p · 832x480x81 · 32 760 tokens per forward · bf16",
        "16 394 878 784 parameters: self-attention 4.196 G, cross-attention 6.294 G,",
    ]
    for line in (
        "  separate r32       16.47 G  32.95 GB   0.16 GB  576.03 GB  34.62 GB  26.65 GB",
        "  self-attention               879.180 TFLOP   52.134 %   53.67 GB  16 380",
        "  without LoRA               1 686.376 TFLOP  100.000 %  548.06 GB   3 077",
        "  LoRA r32                       1.758 TFLOP    0.104 %   27.97 GB      63",
        "at best on H100: 989.5 TFLOP/s in bf16, 3.350 TB/s, 80.00 GB",
        "  full, merged    1.752 s  18.69 k            1.749 s  18.73 k",
        "  separate r32    1.761 s  18.61 k  0.48 %    1.757 s  18.64 k  0.46 %",
        "  M: needs more than its memory, 24.00 GB",
        "at best on cpu: 200.0 GFLOP/s in fp32 (no bf16), 20.00 GB/s, 25.00 GB",
        "  Toy CPU, 2 threads; measured here: a test",
    ):
        assert line in lines
    assert "3.278 TFLOP and 8.502 GB of weights leave every forward" in out


def test_the_documented_example_is_what_it_says() -> None:
    page = (Path(__file__).parents[3] / "docs/predicting.md").read_text()
    command, _, said = page.split("```\n$ ")[1].split("```")[0].partition("\n")
    code, out, _ = wanexport(*shlex.split(command)[1:])
    assert (code, out) == (0, said)


def test_says_what_the_demo_costs(cpu: list[str]) -> None:
    code, out, err = wanexport("estimate", "--rank", 32, "--device", "CPU", "--dtype", "fp16")
    assert (code, err, cpu) == (0, "", ["fp16"])
    assert "at best on cpu: 200.0 GFLOP/s in fp32 (no fp16), 20.00 GB/s, 25.00 GB" in out
    assert "H100" not in out
    code, out, err = wanexport("estimate", "--mode", "separate", "--rank", 4, "--device", "h-200")
    assert (code, err, cpu) == (0, "", ["fp16"])
    assert "  separate r4 " in out
    assert "\n  full" not in out
    code, out, _ = wanexport("estimate", "--device", "H100", "--frames", 9, "--batch", 2)
    assert code == 0
    assert out.startswith("wan2.1-i2v-demo · 480x272x9-b2 · 2 x 1 530 tokens per forward · fp32\n")
    assert "LoRA r" not in out


def test_json_holds_it_all(tmp_path: Path) -> None:
    flags = ("estimate", "--rank", 8, "--device", "H100", "--json")
    code, out, err = wanexport(*flags, "-")
    assert code == 0
    assert err.startswith("wan2.1-i2v-demo · ")
    found = json.loads(out)
    assert [engine["label"] for engine in found["engines"]] == [
        "full", "merged r8", "separate r8", "swappable r8",
    ]  # fmt: skip
    (device,) = found["devices"]
    assert (device["name"], device["dtype"]) == ("H100", "fp32")
    full, _, separate, _ = device["engines"]
    forward = full["forward"]
    assert forward["tokens_per_s"] == pytest.approx(1020 / forward["seconds"])
    ratio = separate["forward"]["seconds"] / forward["seconds"]
    assert separate["forward"]["lora_overhead"] == pytest.approx(ratio - 1)
    assert forward["lora_overhead"] is None
    path = tmp_path / "plan.json"
    code, out, err = wanexport(*flags, path)
    assert (code, err) == (0, f"saved {path}\n")
    assert json.loads(path.read_text()) == found
    code, _, err = wanexport(*flags, tmp_path / "no/plan.json")
    assert (code, err.splitlines()) == (
        1,
        [
            f"error: {tmp_path}/no/plan.json can't be written: {tmp_path}/no isn't a folder",
            f"hint: mkdir -p {tmp_path}/no",
        ],
    )  # fmt: skip


REFUSED: dict[str, tuple[str, str]] = {
    "estimate --rank 8 --device H1000": (
        "error: there is no device 'H1000'", "hint: did you mean 'H100' or 'H200'?",
    ),
    "estimate --rank 1024": (
        "error: rank 1024 exceeds the model's width, 512", "hint: use a smaller --rank",
    ),
    "estimate --config wan2.1-i2v-14b": (
        "error: there is no configuration 'wan2.1-i2v-14b'",
        "hint: did you mean 'wan2.1-i2v-14b-720p'?",
    ),
    "estimate --config devices": (
        "error: there is no configuration 'devices'", "hint: shipped: wan2.1-flf2v-14b-720p, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", REFUSED)
def test_refuses_in_two_lines(command: str, cpu: list[str]) -> None:
    code, out, err = wanexport(*command.split())
    assert (code, out, cpu) == (1, "", [])
    error, hint = err.splitlines()
    assert error == REFUSED[command][0]
    assert hint.startswith(REFUSED[command][1])


COMPILED = """
  as compiled   kernels     moved    to full    bound  to full        on
  full             1721  700.0 GB             8.000 s           RTX 5090
  separate r32     1800  720.0 GB  +20.00 GB  8.080 s  +1.00 %  RTX 5090
"""


def test_what_was_read_from_plans_stands_beside_full(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        CompiledCost("full", None, "12.0", 1721, 700 * 10**9, 10**15, {"RTX 5090": 8.0}),
        CompiledCost("separate", 32, "12.0", 1800, 720 * 10**9, 10**15, {"RTX 5090": 8.08}),
    )
    asked: list[BuildRequest] = []

    def compile_engines(request: BuildRequest, *_: object) -> tuple[CompiledCost, ...]:
        asked.append(request)
        return found

    monkeypatch.setattr("wanexport.compiled.compile_engines", compile_engines)
    command = ("estimate", "--config", "wan2.1-i2v-14b-480p", "--rank", 32, "--compiled")
    code, out, _ = wanexport(*command, "--device", "RTX 5090")
    assert code == 0
    assert asked[0].ranks == (32,)
    table = out[out.index("\n  as compiled ") :]
    assert table.startswith(COMPILED)
    assert all(len(line) <= 79 for line in table.splitlines())
    saved = wanexport(*command, "--device", "RTX 5090", "--json", "-").out
    assert [one["label"] for one in json.loads(saved)["compiled"]] == ["full", "separate r32"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "error: --compiled needs --device\nhint: add --device 'RTX 5090'\n"),
        (("--device", "h100", "--dtype", "fp32"), "error: --compiled needs fp16 or bf16\n"),
        (("--device", "cpu"), "error: --compiled needs a device with a compute capability\n"),
    ],
)
def test_what_cannot_be_compiled_is_wrong_usage(
    flags: tuple[str, ...], says: str, cpu: list[str]
) -> None:
    del cpu
    code, _, err = wanexport("estimate", "--config", "wan2.1-i2v-14b-480p", "--compiled", *flags)
    assert code == 2
    assert err.startswith(says)


def test_all_modes_are_the_builds() -> None:
    assert {cost.mode for cost in price_engines(DEMO)} == set(MODES)


def test_force_replaces_a_file_that_estimate_did_not_write(tmp_path: Path) -> None:
    there = tmp_path / "costs.json"
    there.write_text("mine")
    command = ("estimate", "--rank", 8, "--device", "h100", "--json", there)
    refused = wanexport(*command)
    assert (refused.code, there.read_text()) == (1, "mine")
    assert "replace it with --force" in refused.err
    assert wanexport(*command, "--force").code == 0
    assert json.loads(there.read_text())["schema"] == 1


def test_over_several_cards() -> None:
    over = predict_engines(I2V_14B, load_devices()["H100"], (1, 2, 8)).over_cards
    alone = outlook(I2V_14B, "H100").predictions[0]["forward"]
    assert over[0].seconds == pytest.approx(alone.seconds)
    assert (over[0].exchanged, over[0].exchange_s) == (0, 0)
    head = 32_760 * 64 * 2 * 7 // 8
    assert over[2].exchanged == 40 * (4 * 4095 * 5120 * 2 * 7 // 8) + head
    assert over[2].exchange_s == pytest.approx(over[2].exchanged / 450e9)
    assert over[2].overlapped_s < over[2].seconds < over[1].seconds < over[0].seconds
    # what every card has to read keeps a part of the forward
    assert 7 < over[0].seconds / over[2].seconds < 8
    assert over[2].memory < over[0].memory


@pytest.mark.usefixtures("cpu")
def test_the_command_over_several_cards() -> None:
    command = ("estimate", "--config", "wan2.1-i2v-14b-480p", "--rank", 32)
    code, out, _ = wanexport(*command, "--device", "RTX 5090", "--cards", "8,1,2")
    assert code == 0
    rows = [line.split()[0] for line in out.splitlines() if " x  " in line]
    assert rows == ["1", "2", "8"]
    assert "PCIe 5 of 64 GB/s each way; an estimate" in out
    assert all(len(line) <= 79 for line in out.splitlines())
    _, out, _ = wanexport(*command, "--device", "cpu", "--cards", "2")
    assert "speed-up" not in out  # nothing links CPUs
    tiny = ("--width", 32, "--height", 32, "--frames", 1, "--device", "RTX 4090")
    _, out, _ = wanexport("estimate", "--config", "wan2.1-t2v-1.3b-480p", *tiny, "--cards", "1,2,4")
    assert "2 cards lose more by exchanging than they save" in out


@pytest.mark.parametrize(
    ("cards", "code", "says"),
    [
        ("3", 1, "choose 2"),
        ("2,x", 2, "--cards 'x' isn't a positive"),
        ("0", 2, "isn't a positive"),
    ],
)
def test_other_numbers_of_cards_are_refused(cards: str, code: int, says: str) -> None:
    command = ("estimate", "--config", "wan2.1-i2v-14b-480p", "--device", "H100", "--cards", cards)
    found = wanexport(*command)
    assert (found.code, found.out) == (code, "")
    assert says in found.err
