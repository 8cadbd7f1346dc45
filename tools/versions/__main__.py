"""Try wanexport with the oldest, the newest and the pinned versions; print a table.

make test-versions VERSIONS_ARGS="--only oldest --no-suite"

An environment takes 5 to 7 GB, most of it torch for CUDA, and is removed before the next is made.
uv's cache keeps the downloads.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from versions.environments import ROOT, Environment, InstallError, list_environments
from versions.trial import Step, list_steps, list_suite

USERS = ("cpu", "export", "report")
PLANS = "tensorrt-rtx"
SUITE = ("oldest", "newest")
"""What else has the test suite run: the pinned versions have `make test`."""

Column = dict[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make test-versions", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--only", choices=("oldest", "newest", "pinned"), help="this environment alone"
    )
    parser.add_argument("--no-suite", action="store_true", help="leave out the test suite")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the test suite")
    parser.add_argument("--work", type=Path, default=ROOT / "build/versions")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Column] = {}
    for environment in list_environments(asked.work.resolve()):
        if asked.only in (None, environment.name):
            suite = environment.name in SUITE and not asked.no_suite
            columns[environment.name] = _try(environment, asked.jobs if suite else 0)
            environment.remove()
    print(_draw(columns))
    return any(_failed(column) for column in columns.values())


def _try(environment: Environment, jobs: int) -> Column:
    """Return what the table says of an environment; with jobs the test suite runs, too."""
    column: Column = {"Python": ".".join(map(str, environment.release))}
    print(f"{environment.name}: installing, up to 7 GB", flush=True)
    environment.remove()
    plans = True
    try:
        try:
            environment.install((*USERS, PLANS))
        except InstallError as error:
            print(f"left out: TensorRT-RTX's wheels don't go with the {environment.name}: {error}")
            environment.remove()
            environment.install(USERS)
            plans = False
    except InstallError as error:
        return {**column, "install": _say("install", f"FAILED: {error}")}
    column |= environment.versions()
    work = environment.folder.with_name(f"{environment.name}-engines")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for step in list_steps(environment, work, plans):
        column[step.name] = _run(step, environment)
    shutil.rmtree(work)
    if jobs and not _failed(column):
        try:
            environment.install(("dev",))
        except InstallError as error:
            return {**column, "test suite": _say("test suite", f"FAILED: {error}")}
        suite = list_suite(environment, jobs)
        column[suite.name] = _run(suite, environment)
    return column


def _run(step: Step, environment: Environment) -> str:
    log = environment.folder.with_name(f"{environment.name}-{step.name.strip('-')}.log")
    return _say(step.name, step.run(log))


def _say(name: str, outcome: str) -> str:
    """Print how a step ended; return what its place in the table has room for."""
    print(f"  {name}: {outcome}", flush=True)
    return outcome.partition(":")[0]


def _failed(column: Column) -> bool:
    return "FAILED" in column.values()


def _draw(columns: dict[str, Column]) -> str:
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    lines = [f"{'':<24}" + "".join(f"{name:<18}" for name in columns)]
    for row in rows:
        cells = (column.get(row, "left out") for column in columns.values())
        lines.append(f"{row:<24}" + "".join(f"{cell:<18}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
