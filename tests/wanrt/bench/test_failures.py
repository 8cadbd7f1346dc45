"""Engines that a bench can't measure: rows that say why, in every format, and missing ratios."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from commands import wanrt
from scripted import scripted_bench
from tinyengines import Tiny, make_engine

from wanrt.results.result import BenchResult

LABELS = ["full", "merged r4", "separate r4", "swappable r2", "swappable r4"]


@pytest.fixture
def damaged(family: Path) -> Path:
    """A family whose merged engine has a graph cut short, its swappable one lost a file."""
    graph = family / "tiny-merged-r4" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:40])
    (family / "tiny-swappable" / "adapters" / "r2.safetensors").unlink()
    return family


class TestRows:
    """An engine whose manifest can be read stands where it would stand if it worked."""

    def bench(self, root: Path, kind: str) -> str:
        found = wanrt("bench", root, "--loads", 3, "--rounds", 3, f"--{kind}", "-")
        assert found.code == 1
        return found.out

    @pytest.mark.usefixtures("scripted")
    def test_table(self, damaged: Path) -> None:
        found = wanrt("bench", damaged, "--loads", 3, "--rounds", 3)
        assert found.code == 1
        rows = [line for line in found.out.splitlines() if " fp32 " in line]
        assert [row.split(" fp32 ")[0].strip() for row in rows] == LABELS
        assert [row.split(" fp32 ")[1].startswith(" failed:") for row in rows] == [
            False, True, False, True, True,
        ]  # fmt: skip
        text = "".join(found.out.split())  # a long path is broken anywhere
        assert "merged-r4/model.onnxhas40bytes,engine.jsonsays" in text
        assert "r2.safetensorsismissing(rebuildtheenginewith--force)" in text
        assert "Aseparateadapterofrank4costsnothingmeasurable" in text
        assert not any(line.startswith("failed:") for line in found.out.splitlines())

    @pytest.mark.usefixtures("scripted")
    def test_csv(self, damaged: Path) -> None:
        rows = list(csv.DictReader(io.StringIO(self.bench(damaged, "csv"))))
        told = [row for row in rows if not row["candidate"].endswith("A/A")]
        assert [row["candidate"] for row in told] == LABELS
        assert [bool(row["failed"]) for row in told] == [False, True, False, True, True]
        assert told[1]["failed"].startswith(f"{damaged}/tiny-merged-r4/model.onnx has 40 bytes")
        assert (told[1]["mode"], told[1]["rank"], told[1]["median_s"]) == ("merged", "4", "")

    @pytest.mark.usefixtures("scripted")
    def test_markdown(self, damaged: Path) -> None:
        out = self.bench(damaged, "markdown")
        rows = [line.split(" | ") for line in out.splitlines() if " | fp32 | " in line]
        assert [row[0].removeprefix("| ") for row in rows] == LABELS
        assert rows[1][4].startswith("failed: ")

    @pytest.mark.usefixtures("scripted")
    def test_json_and_page(self, damaged: Path, tmp_path: Path) -> None:
        value = json.loads(self.bench(damaged, "json"))
        told = [row for row in value["results"] if not row["control"]]
        assert [row["label"] for row in told] == LABELS
        assert value["broken"] == {}
        saved = tmp_path / "bench.json"
        saved.write_text(json.dumps(value))
        assert wanrt("report", saved).code == 0
        page = saved.with_suffix(".html").read_text()
        assert "merged r4: failed: " in page
        assert "couldn&#39;t be read" not in page

    @pytest.mark.usefixtures("scripted")
    def test_an_engine_nobody_can_place_has_a_line_too(self, family: Path) -> None:
        (family / "tiny-merged-r4" / "engine.json").write_text("{")
        *_, last = csv.DictReader(io.StringIO(self.bench(family, "csv")))
        assert last["candidate"] == "tiny-merged-r4"
        assert last["engine"] == str(family / "tiny-merged-r4")
        assert last["model"] == last["dtype"] == ""
        assert "engine.json is not JSON" in last["failed"]
        assert "\n- failed: " in self.bench(family, "markdown")

    @pytest.mark.usefixtures("scripted")
    def test_what_was_repaired_is_measured_when_the_bench_goes_on(
        self, family: Path, tmp_path: Path
    ) -> None:
        graph = family / "tiny-separate-r4" / "model.onnx"
        whole = graph.read_bytes()
        graph.write_bytes(whole[:40])
        saved = tmp_path / "bench.json"
        common = ("bench", family, "--loads", 3, "--rounds", 3, "--json", saved)
        assert wanrt(*common).code == 1
        graph.write_bytes(whole)
        assert wanrt(*common, "--resume").code == 0


class TestMissingRatios:
    """Where `full` is there but wasn't measured, a bench says which one and why."""

    def notes(self, result: BenchResult) -> list[str]:
        (group,) = result.groups
        return list(group.notes)

    @pytest.fixture
    def halves(self, tmp_path: Path) -> Path:
        """A `full` in bf16, which a CPU can't run, and a merged engine in fp16."""
        make_engine(tmp_path / "f", Tiny(name="f", dtype="bf16", full_finetune=False))
        make_engine(tmp_path / "m", Tiny(name="m", dtype="fp16", mode="merged", rank=4))
        return tmp_path

    def test_full_was_skipped(self, halves: Path) -> None:
        found = wanrt("bench", halves, "--loads", 1, "--rounds", 1, "--no-probe", "--threads", 1)
        assert found.code == 0, found.out
        text = " ".join(found.out.split())
        reason = "bf16 doesn't run on ONNX Runtime's CPU"
        assert f"no ratios: full bf16 was skipped: {reason}" in text
        assert "full carries" not in text
        assert "full engines" not in text

    def test_full_failed(self, halves: Path) -> None:
        result = scripted_bench(halves, {"failing": {"f": "out of memory"}})
        assert self.notes(result) == ["no ratios: full bf16 failed: out of memory"]

    def test_full_is_damaged(self, family: Path) -> None:
        (family / "tiny-full" / "model.onnx").write_bytes(b"")
        result = scripted_bench(family)
        (note,) = self.notes(result)
        assert note.startswith("no ratios: full fp32 failed: ")
        assert not any(row.control for row in result.rows)
        assert all(row.ratio is None for row in result.rows)

    def test_a_skipped_full_beside_another_is_none_of_several(self, halves: Path) -> None:
        make_engine(halves / "g", Tiny(name="g"))
        result = scripted_bench(halves, {"unsupported": {"f": "no bf16"}})
        assert self.notes(result) == []

    def test_nothing_is_said_where_nothing_ran(self, halves: Path) -> None:
        result = scripted_bench(halves, {"unsupported": {"f": "no bf16", "m": "no fp16"}})
        assert self.notes(result) == []
