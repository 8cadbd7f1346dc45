"""`wanrt report`: the files it reads and writes, and those it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches import FULL, SEPARATE, THROTTLED, bench, group, study
from commands import wanrt
from faketestbed import FakeTestbed, Script
from tinyengines import make_family

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.errors import ResultsError
from wanrt.results.json import read_results, to_json


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(to_json(bench(group(FULL, SEPARATE))), encoding="utf-8")
    return path


def test_bench_then_report(tmp_path: Path) -> None:
    root = make_family(tmp_path / "engines")
    testbed = FakeTestbed(Script(forward_s={"tiny-separate-r4": [0.125]}))
    result = bench_engines([root], BenchOptions(rounds=8), testbed=testbed)
    path = tmp_path / "bench.json"
    path.write_text(to_json(result), encoding="utf-8")
    assert read_results(path) == result
    code, out, err = wanrt("report", path)
    assert (code, err) == (0, f"saved {path.with_suffix('.html')}\n")
    assert out.startswith("A separate adapter of rank 4 costs 20.0 % of the speed (")
    assert out.endswith("[random weights]\n")
    assert "<h1>A separate adapter of rank 4 costs 20.0 %" in path.with_suffix(".html").read_text()


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = bench(
        replace(study(), notes=("a",)), group(replace(SEPARATE, clocks=THROTTLED), model="b")
    )
    path.write_text(to_json(result), encoding="utf-8")
    assert read_results(path) == result


def test_plots_are_saved_as_svg_and_png(saved: Path) -> None:
    output, plots = saved.with_name("out.html"), saved.parent / "a" / "plots"
    assert wanrt("report", saved, "-o", output, "--plots", plots)[0] == 0
    stem = "wan2.1-i2v-14b-832x480x81"
    names = ("memory", "prediction", "rate", "ratio", "rounds")
    assert sorted(path.name for path in plots.iterdir()) == sorted(
        f"{stem}-{name}.{kind}" for name in names for kind in ("png", "svg")
    )
    svg, png = (plots / f"{stem}-ratio.{kind}" for kind in ("svg", "png"))
    assert "<svg" in svg.read_text()
    assert "var(" not in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert int.from_bytes(png.read_bytes()[16:20]) == 2 * 920  # its width
    assert output.is_file()


def _with(text: str, change: Callable[[Any], object]) -> str:
    value = json.loads(text)
    change(value)
    return json.dumps(value)


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "cut short": (lambda text: text[:-200], "is not JSON, or cut short"),
    "empty": (lambda _: "", "is not JSON, or cut short"),
    "no text": (lambda _: "\udcff", "is not JSON, or cut short"),
    "a list": (lambda _: "[]", "isn't a bench's results"),
    "another program's": (lambda _: '{"results": []}', "isn't a bench's results"),
    "of another schema": (
        lambda text: text.replace('"schema": 3', '"schema": 99', 1),
        "is of results schema 99",
    ),
    "without groups": (lambda _: '{"schema": 3}', "isn't a bench's results"),
    "with a row of no group": (
        lambda text: text.replace('"model": "wan2.1-i2v-14b"', '"model": "b"', 1),
        "a row of no group: 'wan2.1-i2v-14b' '832x480x81'",
    ),
    "with a group twice": (
        lambda text: _with(text, lambda value: value["groups"].append(value["groups"][0])),
        "a model and workload are there twice",
    ),
    "of an unknown mode": (
        lambda text: text.replace('"mode": "separate"', '"mode": "fast"'),
        "mode: Input should be 'full', 'merged', 'separate' or 'swappable'",
    ),
    "with a forward of 1e308 s": (
        lambda text: _with(text, lambda v: v["results"][0]["forward_s"].update(times=[1e308] * 72)),
        "seconds: Input should be less than or equal to 1000000000",
    ),
    "with a number beyond a double's": (
        lambda text: text.replace('"load_average": 0.0', '"load_average": 1e999'),
        "isn't a finite number",
    ),
    "with half a character": (
        lambda text: text.replace('"label": "full"', '"label": "\\ud800"'),
        "surrogates not allowed",
    ),
    "with a key twice": (
        lambda text: text.replace('"schema": 3', '"schema": 3, "schema": 3', 1),
        "key schema is there twice",
    ),
    "of wrong types": (
        lambda text: text.replace('"tokens": 32760', '"tokens": "many"'),
        "tokens: Input should be a valid integer",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_results_are_one_clear_line(saved: Path, case: str) -> None:
    change, said = BROKEN[case]
    text = change(saved.read_text(encoding="utf-8"))
    saved.write_text(text, encoding="utf-8", errors="surrogateescape")
    code, out, err = wanrt("report", saved)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {saved}")
    assert said in err
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("hint: ")
    assert not saved.with_suffix(".html").exists()


@pytest.mark.parametrize("name", ["nowhere.json", "folder"])
def test_results_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    code, _, err = wanrt("report", tmp_path / name)
    assert code == 1
    assert "can't be read" in err


def test_outputs_that_cannot_be_written(saved: Path) -> None:
    code, _, err = wanrt("report", saved, "-o", saved.parent / "nowhere" / "out.html")
    assert code == 1
    assert "can't be written" in err
    code, _, err = wanrt("report", saved, "--plots", saved)
    assert code == 1
    assert "can't be made" in err
    code, _, err = wanrt("report", saved, "-o", saved)
    assert code == 2
    assert json.loads(saved.read_text())


def test_plots_of_groups_that_files_cannot_tell_apart(tmp_path: Path) -> None:
    path, plots = tmp_path / "bench.json", tmp_path / "plots"
    names = ("a/b", "a:b", "a" * 300, "a" * 299 + "b")
    groups = (group(FULL, SEPARATE, model=name) for name in names)
    path.write_text(to_json(bench(*groups)), encoding="utf-8")
    assert wanrt("report", path, "--plots", plots)[0] == 0
    drawn = [file.name for file in plots.iterdir() if file.name.endswith("-ratio.svg")]
    assert len(drawn) == len(names)


@pytest.mark.parametrize("option", ["-o", "--plots"])
def test_what_another_program_wrote_is_replaced_with_force_only(saved: Path, option: str) -> None:
    there = saved.with_name("out.html")
    if option == "--plots":
        there = saved.parent / "wan2.1-i2v-14b-832x480x81-ratio.svg"
    there.write_text("mine")
    given = (option, there.parent if option == "--plots" else there)
    code, _, err = wanrt("report", saved, *given)
    assert code == 1
    assert "--force" in err
    assert there.read_text() == "mine"
    assert wanrt("report", saved, *given, "--force")[0] == 0
    assert there.read_text() != "mine"


def test_without_matplotlib_the_extra_is_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name
        for name in sys.modules
        if name.startswith(("wanrt.report.html.page", "wanrt.report.html.style"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = wanrt("report", saved)
    assert code == 1
    assert err == (
        "error: a report needs matplotlib, which isn't installed\n"
        "hint: pip install '.[report]', in a checkout of wanexport\n"
    )


def test_results_of_the_schema_before_can_be_read(saved: Path) -> None:
    now = read_results(saved)
    value = json.loads(saved.read_text(encoding="utf-8"))
    value["schema"] = 2
    for name in ("gpu_utilisation", "torch"):
        del value["context"]["machine"][name]
    for one in value["results"]:
        del one["forward_s"]["enqueued"]
    saved.write_text(json.dumps(value), encoding="utf-8")
    assert read_results(saved) == now


def test_results_error_is_the_package_s() -> None:
    with pytest.raises(ResultsError, match="can't be read"):
        read_results(Path("nowhere.json"))
