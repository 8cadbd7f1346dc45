"""`wanrt bench --steps`, `--cfg` and `--workload`: units in every output, engines that fit."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import wanrt
from tinyengines import Tiny, make_engine, read_raw, write_manifest

from wanrt.results.workloads import load_workloads
from wanrt.terminal.text import WIDTH

LIGHTX2V = "lightx2v-i2v-480p-40"
SHORT = ("--loads", 1, "--rounds", 1)


def make_i2v(folder: Path, **tiny: object) -> Path:
    """Write a tiny engine that says it is Wan2.1-I2V-14B at 832x480x81."""
    workload = load_workloads()[LIGHTX2V]
    make_engine(folder, Tiny(name=folder.name, workloads={"832x480x81": 6}, **tiny))  # type: ignore[arg-type]
    manifest = read_raw(folder)
    manifest["config"] |= {"architecture": workload.architecture}
    write_manifest(folder, manifest)
    return folder


def test_units_are_in_every_output(
    family: Path, scripted: Callable[..., None], tmp_path: Path
) -> None:
    scripted(forward_s={"tiny-separate-r4": [0.125]}, watts=300.0)
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "markdown")}
    flags = [part for kind, path in files.items() for part in (f"--{kind}", path)]
    code, out, _ = wanrt("bench", family, "--steps", 20, "--cfg", *SHORT, *flags)
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "candidate step video energy error" in lines
    # 2 x 0.125 s, 20 x 0.25 s, 5 s x 300 W
    assert "separate r4 250.0 ms 5.000 s 1.500 kJ 3.0e-07" in lines
    assert "a video is 20 steps of 2 forwards; text encoder and VAE are not part of it" in lines
    assert max(map(len, out.splitlines())) <= WIDTH
    value = json.loads(files["json"].read_text())
    assert value["context"]["video"] == {
        "steps": 20, "forwards_per_step": 2, "workload": None, "published": [],
    }  # fmt: skip
    (separate,) = (row for row in value["results"] if row["label"] == "separate r4")
    assert separate["units"] == pytest.approx({"step_s": 0.25, "video_s": 5.0, "video_j": 1500.0})
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    (row,) = (row for row in rows if row["candidate"] == "separate r4")
    found = [float(row[name]) for name in ("error", "step_s", "video_s", "video_j")]
    assert found == pytest.approx([3e-7, 0.25, 5.0, 1500.0])
    markdown = files["markdown"].read_text()
    assert "| separate r4 | 250.0 ms | 5.000 s | 1.500 kJ | 3.0e-07 |" in markdown
    page = tmp_path / "out.html"
    assert wanrt("report", files["json"], "-o", page)[0] == 0
    html = page.read_text()
    for said in ("energy of a video", "1.500 kJ", "5.000 s", "3.0e-07", "a video is 20 steps of 2"):
        assert said in html, said


@pytest.mark.usefixtures("scripted")
def test_an_unverified_engine_says_so_beside_its_speed(tmp_path: Path) -> None:
    make_engine(tmp_path / "tiny-full", Tiny(verified=False))
    _, out, _ = wanrt("bench", tmp_path, "--steps", 4, *SHORT)
    (row,) = (line for line in out.splitlines() if line.endswith("ms  unverified"))
    assert row.split() == ["full", "100.0", "ms", "400.0", "ms", "unverified"]


@pytest.mark.usefixtures("scripted")
def test_a_workload_picks_size_steps_and_guidance(tmp_path: Path) -> None:
    make_i2v(tmp_path / "engines" / "i2v")
    saved = tmp_path / "out.json"
    code, out, _ = wanrt(
        "bench", tmp_path / "engines", "--workload", LIGHTX2V, "--json", saved, *SHORT
    )
    assert code == 0
    text = " ".join(out.split())
    assert "full 200.0 ms 8.000 s 3.0e-07" in text  # 2 x 0.1 s; 40 of those
    for who, figure in (("LightX2V", 5.18), ("SGLang", 6.13), ("FastVideo", 7.35)):
        assert f"published: {who} {figure} seconds per step on H100 (LightX2V's README" in text
    value = json.loads(saved.read_text())
    assert value["context"]["options"]["workload"] == "832x480x81"
    assert [p["figure"] for p in value["context"]["video"]["published"]] == [5.18, 6.13, 7.35, 9.77]
    page = tmp_path / "out.html"
    assert wanrt("report", saved, "-o", page)[0] == 0
    assert "published: Diffusers 9.77 seconds per step on H100" in page.read_text()


@pytest.mark.usefixtures("scripted")
def test_a_workload_without_a_size_takes_any_engine(family: Path) -> None:
    code, out, _ = wanrt("bench", family, "--workload", "lightning-4", *SHORT)
    assert code == 0
    assert "lightning-4: a video is 4 steps of 1 forward;" in out


@pytest.mark.usefixtures("scripted")
def test_engines_that_do_not_fit_are_refused_with_those_that_do(tmp_path: Path) -> None:
    right = make_i2v(tmp_path / "i2v")
    other = make_engine(tmp_path / "other", Tiny(workloads={"832x480x81": 6}))
    code, out, err = wanrt("bench", tmp_path, "--workload", LIGHTX2V)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"error: workload {LIGHTX2V} wants engines of Wan2.1-I2V-14B at 832x480x81, unlike {other}",
        f"hint: these fit: wanrt bench {right} --workload {LIGHTX2V}",
    ]
    code, _, err = wanrt("bench", other, "--workload", LIGHTX2V)
    assert code == 1
    assert "build them: wanexport build --config wan2.1-i2v-14b-480p" in err
    # the same architecture as one expert alone, at another size
    code, _, err = wanrt("bench", right, "--workload", "mlperf-v6-wan2.2")
    assert code == 1
    assert "wants engines of Wan2.2-T2V-A14B at 1280x720x81" in err


@pytest.mark.usefixtures("scripted")
def test_an_unknown_workload_lists_those_there_are(family: Path) -> None:
    code, _, err = wanrt("bench", family, "--workload", "lightx2v")
    assert code == 1
    assert err.splitlines() == [
        "error: no engine has the workload 'lightx2v'",
        "hint: sizes of these engines: 64x32x1; named: lightx2v-i2v-480p-40, lightning-4, "
        "mlperf-v6-wan2.2",
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ("--workload", "lightning-4", "--steps", 8),
        ("--workload", "lightning-4", "--cfg"),
        ("--steps", 0),
        ("--steps", 10**9),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_contradictions_are_usage_errors(family: Path, flags: tuple[object, ...]) -> None:
    assert wanrt("bench", family, *flags)[0] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "video.steps: Input should be greater than or equal to 1"),
        ({"forwards_per_step": 10**9}, "video.forwards_per_step: Input should be less than"),
        ({"published": [{"who": "x"}]}, "video.published.0"),
    ],
)
@pytest.mark.usefixtures("scripted")
def test_a_stored_video_beyond_reason_is_refused(
    family: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    saved = tmp_path / "out.json"
    assert wanrt("bench", family, "--steps", 4, "--json", saved, *SHORT)[0] == 0
    value = json.loads(saved.read_text())
    value["context"]["video"] |= change
    saved.write_text(json.dumps(value))
    code, _, err = wanrt("report", saved)
    assert code == 1
    assert said in err
