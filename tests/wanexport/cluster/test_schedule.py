from __future__ import annotations

from pathlib import Path

import pytest

from wanexport.cluster.machine import ClusterMachine, choose_versions, find_differences
from wanexport.cluster.schedule import LOSSES, Schedule
from wanexport.cluster.state import StateFolder
from wanexport.cluster.unit import Card, CardKind, Unit
from wanexport.errors import ConfigError

SXM = CardKind("NVIDIA H100 80GB HBM3", 80, 700)
PCIE = CardKind("NVIDIA H100 PCIe", 80, 350)
ONE, TWO = Card("GPU-1", SXM, "a"), Card("GPU-2", SXM, "b")
OTHER = Card("GPU-3", PCIE, "b")
CPU = Card("a", CardKind("Xeon", 128), "a", processor=True)


def bench(folder: Path, name: str = "bench", *, cards: int = 1, minutes: float = 0.0) -> Unit:
    done, partial = folder / f"{name}@{{card}}.json", folder / f".{name}@{{card}}"
    return Unit(
        name, "bench", ("run", "{card}"), done, SXM, (), cards, partial, ("--resume",),
        minutes=minutes,
    )  # fmt: skip


def build(folder: Path) -> Unit:
    return Unit("build", "build", ("make",), folder / "engine")


def test_a_card_is_of_a_kind_by_name_memory_and_power(tmp_path: Path) -> None:
    assert CardKind(SXM.name).fits(SXM)
    assert not SXM.fits(PCIE)
    assert not SXM.fits(CardKind(SXM.name, 80, 500))
    unit = bench(tmp_path)
    assert Schedule([unit]).place([OTHER, CPU, ONE], {}) == [(unit, ONE)]


def test_copies_run_on_different_cards_and_files_say_what_is_left(tmp_path: Path) -> None:
    unit = bench(tmp_path, cards=2)
    (tmp_path / "bench@GPU-1.json").touch()
    schedule = Schedule([unit])
    assert schedule.open == 1
    assert schedule.place([ONE], {}) == []
    assert schedule.place([ONE, TWO], {}) == [(unit, TWO)]
    assert schedule.open == 0


def test_a_card_goes_on_with_what_it_began(tmp_path: Path) -> None:
    unit = bench(tmp_path)
    assert unit.command_on(TWO) == ("run", "GPU-2")
    (tmp_path / ".bench@GPU-2").touch()
    assert Schedule([unit]).place([ONE, TWO], {}) == [(unit, TWO)]
    assert unit.command_on(TWO) == ("run", "GPU-2", "--resume")


def test_the_longest_is_first(tmp_path: Path) -> None:
    short, long = bench(tmp_path, "short", minutes=1), bench(tmp_path, "long", minutes=9)
    assert Schedule([short, long]).place([ONE], {}) == [(long, ONE)]


def test_a_machine_builds_or_measures(tmp_path: Path) -> None:
    making, measuring = build(tmp_path), bench(tmp_path)
    assert Schedule([measuring, making]).place([ONE, CPU], {}) == [(making, CPU)]
    assert Schedule([measuring]).place([ONE], {CPU: making}) == []
    assert Schedule([measuring]).place([TWO], {CPU: making}) == [(measuring, TWO)]


def test_what_needs_a_failed_unit_fails_with_its_reason(tmp_path: Path) -> None:
    making = build(tmp_path)
    needing = Unit("b", "bench", ("run",), tmp_path / "b", SXM, ("build",))
    schedule = Schedule([making, needing])
    assert schedule.place([ONE, CPU], {}) == [(making, CPU)]
    schedule.fail(making, CPU, "disk full")
    (outcome,) = schedule.fail_dependants()
    assert outcome.reason == "needs build, which failed: disk full"
    assert schedule.open == 0


def test_lost_work_goes_on_until_it_was_lost_too_often(tmp_path: Path) -> None:
    unit = bench(tmp_path)
    schedule = Schedule([unit])
    for time in range(LOSSES):
        assert schedule.place([ONE], {}) == [(unit, ONE)]
        outcome = schedule.put_back(unit, ONE, lost=True)
        assert (outcome is None) == (time < LOSSES - 1)
    assert schedule.open == 0


def test_why_nothing_can_be_placed(tmp_path: Path) -> None:
    (outcome,) = Schedule([bench(tmp_path, cards=3)]).give_up([OTHER])
    assert outcome.reason == f"needs 3 more of {SXM}; usable here: {PCIE}"


def test_quarantine_and_versions_stay(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "cluster")
    assert state.versions is None
    state.keep_versions({"driver": "580"})
    path = state.quarantine(ONE, bench(tmp_path), "stuck")
    again = StateFolder(tmp_path / "cluster")
    assert again.versions == {"driver": "580"}
    assert again.quarantined() == {"GPU-1": str(path)}


def machine(host: str, driver: str, cards: int) -> ClusterMachine:
    gpus = tuple(Card(f"{host}{n}", SXM, host) for n in range(cards))
    return ClusterMachine(host, {"driver": driver}, CPU, gpus, shared=True)


def test_the_versions_of_most_cards_count_or_those_that_are_pinned() -> None:
    machines = [machine("first", "570", 1), machine("b", "580", 2), machine("c", "580", 2)]
    assert choose_versions(machines, {}) == {"driver": "580"}
    assert choose_versions(machines, {"driver": "570"}) == {"driver": "570"}
    assert find_differences(machines[0], {"driver": "580"}) == ["driver 570, not 580"]
    with pytest.raises(ConfigError, match="no machine of the cluster has driver 1"):
        choose_versions(machines, {"driver": "1"})
