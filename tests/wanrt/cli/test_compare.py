"""`wanrt bench --compare`: what became slower, and what can't be compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import wanrt


class TestCompare:
    @pytest.fixture
    def earlier(self, family: Path, scripted: Callable[..., None], tmp_path: Path) -> Path:
        path = tmp_path / "earlier.json"
        scripted()
        assert wanrt("bench", family, "--loads", 3, "--json", path)[0] == 0
        return path

    def test_what_became_slower_fails(
        self, family: Path, scripted: Callable[..., None], earlier: Path
    ) -> None:
        scripted(forward_s={"tiny-separate-r4": [0.125]})
        common = ("bench", family, "--loads", 3, "--compare", earlier)
        code, _, err = wanrt(*common, "--fail-above", "2%")
        assert code == 1
        (line,) = (line for line in err.splitlines() if "SLOWER" in line)
        assert line.split() == [
            "separate", "r4", "60.00", "->", "48.00", "tok/s", "to", "full", "-20.00%", "(-20.00%",
            "to", "-20.00%)", "SLOWER",
        ]  # fmt: skip
        assert wanrt(*common, "--fail-above", "21%")[0] == 0
        assert wanrt(*common)[0] == 0

    def test_a_slower_machine_shows_in_full_alone(
        self, family: Path, scripted: Callable[..., None], earlier: Path
    ) -> None:
        names = ("full", "merged-r4", "separate-r4", "swappable r2", "swappable r4")
        scripted(forward_s={f"tiny-{name}": [0.13] for name in names})
        common = ("bench", family, "--loads", 3, "--compare", earlier)
        code, _, err = wanrt(*common, "--fail-above", "2%")
        assert code == 1
        assert [line.split()[0] for line in err.splitlines() if "SLOWER" in line] == ["full"]

    def test_a_single_load_is_no_proof(
        self, family: Path, scripted: Callable[..., None], earlier: Path
    ) -> None:
        scripted(forward_s={"tiny-separate-r4": [0.125]})
        common = ("bench", family, "--compare", earlier, "--fail-above", "2%")
        code, _, err = wanrt(*common, "--loads", 1)
        assert code == 0
        assert "one load: no interval" in err

    @pytest.mark.usefixtures("scripted")
    def test_what_is_gone_fails(self, family: Path, earlier: Path) -> None:
        shutil.rmtree(family / "tiny-separate-r4")
        common = ("bench", family, "--loads", 3, "--compare", earlier)
        code, _, err = wanrt(*common, "--fail-above", "2%")
        assert code == 1
        assert "separate r4   60.00 tok/s -> gone" in err
        assert wanrt(*common)[0] == 0

    @pytest.mark.usefixtures("scripted")
    def test_the_results_must_not_replace_it(self, family: Path, earlier: Path) -> None:
        both = ("--compare", earlier, "--json", earlier)
        assert wanrt("bench", family, *both)[0] == 2

    def test_another_machine_is_refused_unless_forced(
        self, family: Path, scripted: Callable[..., None], earlier: Path
    ) -> None:
        scripted(machine={"onnxruntime": "9.9"})
        common = ("bench", family, "--loads", 3, "--compare", earlier)
        code, out, err = wanrt(*common)
        assert (code, out) == (1, "")  # before anything ran
        assert "error: the earlier bench ran with another onnxruntime (1.2.3, now 9.9)" in err
        assert wanrt(*common, "--force")[0] == 0

    def test_another_torch_is_refused_where_rivals_ran_with_both(
        self, family: Path, scripted: Callable[..., None], tmp_path: Path
    ) -> None:
        saved = tmp_path / "rivals.json"
        rivals = {"rivals": ["eager"]}
        common = ("bench", family, "--loads", 3)
        scripted(**rivals, machine={"torch": "2.1"})
        assert wanrt(*common, "--with", "eager", "--json", saved)[0] == 0
        scripted(**rivals, machine={"torch": "2.2"})
        code, _, err = wanrt(*common, "--with", "eager", "--compare", saved)
        assert code == 1
        assert "another torch (2.1, now 2.2)" in err
        scripted()
        assert wanrt(*common, "--compare", saved)[0] == 0

    @pytest.mark.usefixtures("scripted")
    def test_a_file_that_cannot_be_read_is_told_before_anything_runs(
        self, family: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "x.json").write_text("{")
        code, out, err = wanrt("bench", family, "--compare", tmp_path / "x.json")
        assert (code, out) == (1, "")
        assert "is not JSON, or cut short" in err
