"""Units on a real Ray cluster of three nodes on this machine, whose GPUs are scripted."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from raycluster import RayCluster, cell, drive, start_driver, wait_for

pytestmark = pytest.mark.slow  # each starts clusters and drivers: a minute or more


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    cluster = RayCluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.close()


def test_a_node_and_the_driver_are_killed(cluster: RayCluster, tmp_path: Path) -> None:
    cluster.add("GPU-a1", "GPU-a2")
    cluster.add("GPU-b1", "GPU-b2")
    third = cluster.add("GPU-c1", "GPU-c2")
    made = tmp_path / "made"
    build: dict[str, object] = {"name": "build", "kind": "build", "done": str(made),
             "argv": [sys.executable, "-c", f"open({str(made)!r}, 'w')"]}  # fmt: skip
    units = [build, *(cell(tmp_path, f"u{n}", 8, after=["build"]) for n in range(8))]
    driver = start_driver(cluster, tmp_path, units)
    said = wait_for(driver, "started on GPU-c")
    driver.kill()
    driver.communicate()
    driver = start_driver(cluster, tmp_path, units)
    said = wait_for(driver, "started on GPU-c")
    assert "build: started" not in said
    cluster.kill(third)
    said += driver.communicate(timeout=240)[0]
    assert "so it goes on elsewhere" in said
    assert len(re.findall(r"'u\d', 'done'", said)) == 8
    assert "failed" not in said
    assert len(list(tmp_path.glob("u*@GPU-*.json"))) == 8
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if "GPU-c1" in (p.info["cmdline"] or [])
    ]
    assert drive(cluster, tmp_path, units).splitlines()[-1] == "outcomes []"


def test_cards_that_are_stuck_and_machines_that_differ(cluster: RayCluster, tmp_path: Path) -> None:
    cluster.add("GPU-a1", "GPU-stuck")
    cluster.add("GPU-b1", "GPU-bad")
    cluster.add("GPU-old", driver="570.9")
    units = [cell(tmp_path, "each", 1, cards=4, limit_s=4)]
    said = drive(cluster, tmp_path, units)
    (tmp_path / "said").write_text(said)
    assert re.search(r"isn't used: it has driver 570.9, not 580.1", said)
    outcomes = said.splitlines()[-1]
    assert outcomes.count("'done'") == 2
    assert "no progress for 4 s, so it was ended" in outcomes
    assert "this engine can't be loaded" in outcomes
    assert not psutil.pid_exists(int((tmp_path / "stuck.pid").read_text()))
    assert (tmp_path / "cluster/quarantine/GPU-stuck.json").exists()
    again = drive(cluster, tmp_path, [cell(tmp_path, "next", 1, cards=2)])
    assert "GPU-stuck" in again and "it is in quarantine" in again
    assert "started on GPU-stuck" not in again


def test_makespan(cluster: RayCluster, tmp_path: Path) -> None:
    """24 cells on 6 cards take at most 1.15 times as long as they would at best."""
    for node in "abc":
        cluster.add(f"GPU-{node}1", f"GPU-{node}2")
    seconds = [4 + n % 4 for n in range(24)]
    units = [cell(tmp_path, f"u{n}", s, minutes=s) for n, s in enumerate(seconds)]
    said = drive(cluster, tmp_path, units)
    starts = [float(line.split()[0]) for line in said.splitlines() if "started on" in line]
    ends = [float(line.split()[0]) for line in said.splitlines() if ": done on" in line]
    assert len(ends) == 24
    ratio = (max(ends) - min(starts)) / (sum(seconds) / 6)
    (tmp_path / "ratio").write_text(f"{ratio:.3f}")
    assert ratio < 1.15
