"""`wanrt combine`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from benches import FULL, MERGED, SEPARATE, bench, group
from commands import wanrt

from wanrt.results.json import to_json
from wanrt.results.values import Ratio

FOUND = (0.985, 0.989, 0.987, 0.990)
MERGED_FOUND = (1.001, 0.999, 1.002, 0.998)


def save(folder: Path, number: int, value: float, **machine: object) -> Path:
    path = folder / f"i2v@{number}.json"
    own = replace(SEPARATE, ratio=Ratio(value, value - 0.004, value + 0.004, 3, 9, 0.01, "slower"))
    equal = MERGED_FOUND[number]
    merged = replace(MERGED, ratio=Ratio(equal, equal - 0.002, equal + 0.002, 3, 9, 0.5, "same"))
    uuid = {"gpu_uuid": f"GPU-{number}1b2c3d4-0000"} | machine
    path.write_text(to_json(bench(group(FULL, merged, own, band=(0.998, 1.002)), machine=uuid)))
    return path


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    return [save(tmp_path, number, value) for number, value in enumerate(FOUND)]


TEXT = """\
A separate adapter of rank 32 costs 1.2 % of the speed (0.9 to 1.6 %) [random
    weights]

4 cards: Fake H200 · driver 580.1 · onnxruntime 1.2.3
forward: CUDA events around the forward, inputs resident
GPU-01b2c3d4: i2v@0.json
GPU-11b2c3d4: i2v@1.json
GPU-21b2c3d4: i2v@2.json
GPU-31b2c3d4: i2v@3.json

wan2.1-i2v-14b · 832x480x81 · 32 760 tokens per forward · random weights

  over cards                to full (95 %)     sd  next card (95 %)
  full R                                 1
  merged r32 R    no measurable difference  0.18%    0.994 to 1.007
  separate r32 R    0.988 (0.984 to 0.991)  0.22%    0.980 to 0.996

A merged adapter of rank 32 costs nothing measurable [random weights]
R: random weights
the cards' controls span 0.998 to 1.002: nothing within that is claimed
"""


def test_four_cards(saved: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved[0].parent)
    names = [path.name for path in saved]
    assert wanrt("combine", *names) == (0, TEXT, "")


def test_each_card_with_verbose_or_if_there_are_two(saved: list[Path]) -> None:
    _, out, _ = wanrt("combine", *saved, "-v")
    assert "over cards" in out
    assert "by card                   GPU-01b2c3d4            GPU-11b2c3d4" in out
    assert "separate r32 R  0.985 (0.981 to 0.989)  0.989 (0.985 to 0.993)" in out
    code, out, _ = wanrt("combine", *saved[:2])
    assert (code, out.splitlines()[0]) == (
        0, "no interval over fewer than 3 cards: what each card found stands by itself",
    )  # fmt: skip
    assert "over cards" not in out.replace("interval over cards", "")
    assert "separate r32 R  0.985 (0.981 to 0.989)  0.989 (0.985 to 0.993)" in out


def test_json_has_what_there_is(saved: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "cards.json"
    code, _, err = wanrt("combine", *saved, "--json", path)
    assert (code, err) == (0, f"saved {path}\n")
    value = json.loads(path.read_text())
    assert value["combined"] == 1
    assert value["context"]["pooled"] is True
    assert [card["uuid"] for card in value["cards"]] == [
        f"GPU-{number}1b2c3d4-0000" for number in range(4)
    ]
    row = value["results"][2]
    assert (row["label"], row["cards"], row["ratio"]["verdict"]) == ("separate r32", 4, "slower")
    assert row["next_card"]["low"] < row["ratio"]["low"] < row["ratio"]["value"]
    assert [one["ratio"]["value"] for one in row["by_card"]] == list(FOUND)
    assert all(one["tokens_per_s"] > 0 for one in row["by_card"])
    assert wanrt("combine", *saved, "--json", path)[0] == 0  # its own file may be replaced
    code, _, err = wanrt("report", path)
    assert (code, "isn't a bench's results" in err) == (1, True)


def test_csv_and_markdown(saved: list[Path], tmp_path: Path) -> None:
    code, out, err = wanrt("combine", *saved, "--csv", "-", "--markdown", tmp_path / "c.md")
    assert code == 0
    assert "next card" in err  # the table makes way
    lines = list(csv.DictReader(io.StringIO(out)))
    assert len(lines) == 3 * 5
    assert [line["card"] for line in lines[10:]] == [
        "",
        *(f"GPU-{n}1b2c3d4-0000" for n in range(4)),
    ]
    assert float(lines[10]["ratio"]) == pytest.approx(0.987748, abs=1e-6)
    assert [float(line["ratio"]) for line in lines[11:]] == list(FOUND)
    text = (tmp_path / "c.md").read_text()
    assert "| separate r32 R | 0.988 (0.984 to 0.991) | 0.22% | 0.980 to 0.996 |" in text
    assert "| by card | GPU-01b2c3d4 | GPU-11b2c3d4 | GPU-21b2c3d4 | GPU-31b2c3d4 |" in text


def test_the_ratios_over_cards_are_drawn(saved: list[Path], tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    assert wanrt("combine", *saved, "--plots", plots)[0] == 0
    stem = "wan2.1-i2v-14b-832x480x81-ratio"
    assert sorted(path.name for path in plots.iterdir()) == [f"{stem}.png", f"{stem}.svg"]
    assert "0.998 to 1.002" in (plots / f"{stem}.svg").read_text()
    code, out, err = wanrt("combine", *saved[:2], "--plots", tmp_path / "none")
    assert (code, out, "nothing to plot" in err) == (1, "", True)
    assert not (tmp_path / "none").exists()


def test_one_card_twice_is_refused_before_anything_is_written(
    saved: list[Path], tmp_path: Path
) -> None:
    twice = tmp_path / "again.json"
    twice.write_bytes(saved[1].read_bytes())
    code, out, err = wanrt("combine", *saved, twice, "--json", tmp_path / "o.json")
    assert (code, out) == (1, "")
    assert err == (
        f"error: {saved[1]} and {twice} are of one card, GPU-11b2c3d4-0000: benches of one card "
        "aren't pooled\n"
        "hint: choose one of them; a card counts once, however often it was measured\n"
    )
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["nowhere.json"], 1, "can't be read"),
        (["{0}", "--json", "{0}"], 1, "it is an input"),
        (["{0}", "--csv", "{0}.csv"], 1, "this command doesn't write such files"),
        (["{0}", "--csv", "-", "--json", "-"], 2, "only one of"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_is_refused(saved: list[Path], given: list[str], code: int, said: str) -> None:
    Path(f"{saved[0]}.csv").write_text("mine")
    found = wanrt("combine", *(arg.format(*saved) for arg in given))
    assert (found[0], found[1]) == (code, "")
    assert said in found[2]
    assert Path(f"{saved[0]}.csv").read_text() == "mine"
