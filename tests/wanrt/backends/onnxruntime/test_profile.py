"""ONNX Runtime's own profile of real engines: what it ran is what the formulas count."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import build

from wanrt.backends.load import profile_forward
from wanrt.explain.explained import explain_engine
from wanrt.explain.work import sum_by_part
from wanrt.manifest.folder import open_folder
from wanrt.terminal.progress import Reporter

QUIET = Reporter(quiet=True)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_operators_flops_are_the_manifests(tmp_path: Path, dtype: str) -> None:
    """The formulas equal torch's FlopCounterMode; a profile knows neither."""
    modes = ("full", "separate", "swappable")
    built = build(tmp_path, dtype=dtype, modes=modes, ranks=(4,), verify=False)
    assert len(built) == 3
    for one in built:
        explained = explain_engine(tmp_path / one.target.name, QUIET)
        flops = {part: sums.flops for part, sums in sum_by_part(explained.work).items()}
        assert {part: count for part, count in flops.items() if count} == explained.workload.flops
        assert ("lora" in flops) == (explained.manifest.mode != "full")
        assert explained.forward_s is not None
        assert 0 < sum(w.kernel.seconds or 0 for w in explained.work) <= explained.forward_s


def test_nothing_of_a_profile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setenv("TMPDIR", str(room))
    monkeypatch.setattr("tempfile.tempdir", None)
    (built,) = build(tmp_path / "out", modes=("full",), verify=False)
    assert profile_forward(open_folder(tmp_path / "out" / built.target.name)).startswith("[")
    assert list(room.iterdir()) == []
