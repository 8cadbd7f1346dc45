"""A study's run on scripted cards: what is made, what is kept, what is made again, what fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tinyengines import Tiny, make_engine

from wanexport.cluster.machine import ClusterMachine
from wanexport.cluster.run import Pool, PoolEvent
from wanexport.cluster.supervise import Event, Job
from wanexport.cluster.unit import Card, CardKind
from wanexport.study.cells import list_groups
from wanexport.study.file import Study, load_study
from wanexport.study.record import write_record
from wanexport.study.run import Progress, run_study
from wanexport.study.units import Places
from wanrt.manifest.read import read_manifest_only

GPU = CardKind("NVIDIA H100 80GB HBM3", 80, 700)
FILE = """
name = "mine"
config = "wan2.1-i2v-demo"
[grid]
ranks = [{ranks}]
targets = ["cross-attention", "all"]
modes = ["full", "merged", "separate"]
[bench]
time_budget_s = {budget}
"""


@dataclass
class ScriptedPool:
    """One machine whose processor does at once what a job asks, or fails as the script says."""

    failing: dict[str, str] = field(default_factory=dict)
    gpus: tuple[Card, ...] = ()
    ran: list[str] = field(default_factory=list)
    _events: list[PoolEvent] = field(default_factory=list)
    _known: bool = False

    @contextmanager
    def open_pool(self) -> Iterator[Pool]:
        self._known = False
        yield self

    def find_new(self) -> list[ClusterMachine]:
        card = Card("here", CardKind("Xeon"), "here", processor=True)
        found = [] if self._known else [ClusterMachine("here", {}, card, self.gpus, True)]
        self._known = True
        return found

    def open(self, machine: ClusterMachine) -> list[Card]:
        return [machine.processor, *machine.gpus]

    def start(self, card: Card, job: Job) -> None:
        words = " ".join(job.argv)
        self.ran.append(Path(job.done).stem)
        why = next((why for name, why in self.failing.items() if name in words), None)
        if why is None and "bench" in job.argv:
            self._bench(job)
        elif why is None:
            self._build(job)
        self._events.append(PoolEvent(card, Event("failed", why) if why else Event("done")))

    def wait(self, seconds: float) -> list[PoolEvent]:  # noqa: ARG002
        events, self._events = self._events, []
        return events

    def drop(self, card: Card) -> None:
        raise AssertionError(f"{card} was dropped")

    def _build(self, job: Job) -> None:
        done = Path(job.done)
        argv = list(job.argv)
        mode = argv[argv.index("--mode") + 1]
        folder = done.parent / f"engine-{done.stem}"
        if not folder.exists():
            make_engine(folder, Tiny(mode=mode, rank=None if mode == "full" else 4, name=done.stem))
        engine = {"folder": str(folder), "mode": mode, "control": False, "made": True}
        value = {"schema": 1, "argv": argv[4:], "seconds": 1.5, "engines": [engine]}
        done.write_text(json.dumps(value))

    def _bench(self, job: Job) -> None:
        folders = [Path(part) for part in job.argv if (Path(part) / "engine.json").is_file()]
        manifests = [read_manifest_only(folder).to_json() for folder in folders]
        rows = [
            {"identity": hashlib.sha256(m.encode()).hexdigest(), "rival": None} for m in manifests
        ]
        budget = float(job.argv[job.argv.index("--time-budget") + 1])
        options = {"time_budget_s": budget, "half_width": 0.005, "loads": None, "rounds": None,
                   "warmup": 1, "threads": None, "device": "cpu"}  # fmt: skip
        Path(job.done).write_text(json.dumps({"results": rows, "context": {"options": options}}))


def run(
    folder: Path, pool: ScriptedPool, *, ranks: str = "4, 8", budget: int = 3
) -> tuple[Progress, dict[str, object]]:
    """Run a study to its end; return what it has come to, and the record's only group."""
    file = folder / "mine.toml"
    file.write_text(FILE.format(ranks=ranks, budget=budget))
    study: Study = load_study(str(file))
    groups, places = list_groups(study), Places(folder / "out")
    pool.ran.clear()
    progress = run_study(
        study, groups, places, pool.open_pool, on=None, joining_s=0.0, log=lambda _: None,
        on_change=lambda now: write_record(study, groups, places, (), now),
    )  # fmt: skip
    (group,) = json.loads(places.record.read_text())["groups"]
    return progress, group


@pytest.fixture
def pool() -> ScriptedPool:
    return ScriptedPool()


GROUP = "wan2.1-i2v-demo-480x272x5-fp32-onnxruntime"


def test_builds_come_before_the_bench_and_nothing_is_done_twice(
    tmp_path: Path, pool: ScriptedPool
) -> None:
    progress, group = run(tmp_path, pool)
    assert len(pool.ran) == 1 + 2 + 4 + 1
    assert pool.ran[-1] == f"{GROUP}@here"
    assert group["results"] == [f"results/{GROUP}@here.json"]
    assert not progress.failures
    run(tmp_path, pool)
    assert pool.ran == []


def test_more_ranks_are_built_and_all_is_measured_again(tmp_path: Path, pool: ScriptedPool) -> None:
    run(tmp_path, pool)
    run(tmp_path, pool, ranks="4, 8, 16")
    built = {name.removeprefix(f"{GROUP}-") for name in pool.ran[:-1]}
    assert built == {"separate-r16", "separate-r16-all", "merged-r16", "merged-r16-all"}
    assert pool.ran[-1] == f"{GROUP}@here"
    results = tmp_path / "out/results"
    assert [path.name for path in (results / "superseded").iterdir()] == [f"{GROUP}@here-1.json"]


def test_other_options_are_measured_again(tmp_path: Path, pool: ScriptedPool) -> None:
    run(tmp_path, pool)
    run(tmp_path, pool, budget=60)
    assert pool.ran == [f"{GROUP}@here"]


def test_a_cell_that_fails_has_its_reason_and_the_rest_is_measured(
    tmp_path: Path, pool: ScriptedPool
) -> None:
    pool.failing["separate-r8-all.json"] = "the disk is full"
    progress, group = run(tmp_path, pool)
    cells = {cell["label"]: cell for cell in group["cells"]}  # type: ignore[attr-defined]
    assert cells["separate-r8-all"]["failed"] == "the disk is full"
    assert cells["separate-r8-all"]["log"].startswith("run/logs/")
    assert cells["separate-r8"]["failed"] is None
    assert group["results"] == [f"results/{GROUP}@here.json"]
    pool.failing.clear()
    progress, group = run(tmp_path, pool)
    assert pool.ran == [f"{GROUP}-separate-r8-all", f"{GROUP}@here"]
    assert not progress.failures


def test_without_its_baseline_a_group_is_not_measured(tmp_path: Path, pool: ScriptedPool) -> None:
    pool.failing[f"{GROUP}-full.json"] = "no"
    _, group = run(tmp_path, pool)
    assert group["failed"] == f"{GROUP}-full, which every ratio is to, isn't built"
    assert f"{GROUP}@here" not in pool.ran


def test_an_engine_that_was_removed_is_built_again(tmp_path: Path, pool: ScriptedPool) -> None:
    run(tmp_path, pool)
    (tmp_path / f"out/engines/engine-{GROUP}-separate-r4/engine.json").unlink()
    for path in sorted((tmp_path / f"out/engines/engine-{GROUP}-separate-r4").rglob("*"))[::-1]:
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / f"out/engines/engine-{GROUP}-separate-r4").rmdir()
    run(tmp_path, pool)
    assert pool.ran[0] == f"{GROUP}-separate-r4"
