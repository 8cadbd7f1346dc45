"""What is tried in an environment: each step is a command that has to end well."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from versions.environments import ROOT, Environment
from wanexport.cli.main import app as wanexport
from wanrt.cli.main import app as wanrt

__all__ = ["Step", "list_steps", "list_suite"]

NAME = "wan2.1-i2v-demo-480x272x5-fp32"
IMPORTS = Path(__file__).with_name("imports.py")
HASHES = ROOT / "tests/wanexport/graph/graph_hashes.toml"


@dataclass(frozen=True)
class Step:
    """Commands that run one after another."""

    name: str
    commands: tuple[tuple[str | Path, ...], ...]

    def run(self, log: Path) -> str:
        """Run them with what they print in `log`; what the table says of it."""
        begin = time.monotonic()
        with log.open("w") as out:
            for command in self.commands:
                done = subprocess.run(
                    command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
                if done.returncode:
                    return f"FAILED: {log}"
        return f"ok {time.monotonic() - begin:.0f} s"


def list_steps(environment: Environment, work: Path, plans: bool) -> list[Step]:
    """Return what a user would do, on the demo.

    Args:
        environment: where.
        work: an empty folder for engines.
        plans: whether TensorRT-RTX is there.
    """
    python, ours, engines = (
        environment.bin / "python",
        environment.bin / "wanexport",
        work / "engines",
    )
    runtime, swappable = environment.bin / "wanrt", engines / f"{NAME}-swappable-r8"
    lora, style = (
        engines / ".made/wan2.1-i2v-demo-lora-r8-seed0.safetensors",
        work / "style.safetensors",
    )
    results = work / "bench.json"
    all_modes = [
        engines / f"{NAME}-{mode}" for mode in ("full", "merged-r8", "separate-r8", "swappable-r8")
    ]
    plan = (ours, "build", "--rank", "8", "--mode", "swappable", "--backend", "tensorrt-rtx",
            "--out", work / "plans")  # fmt: skip
    return [
        Step("imports", ((python, IMPORTS),)),
        Step("--help", tuple(_helps(environment))),
        Step("graphs", ((python, ROOT / "tools/graph_hashes.py", "--check", HASHES),)),
        Step("build", ((ours, "build", "--rank", "8", "--out", engines),)),
        *([Step("plan", (plan,))] if plans else []),
        Step("verify", ((runtime, "verify", *all_modes),)),
        Step("run, swap", (
            (ours, "adapter", lora, "--for", swappable, "-o", style),
            (runtime, "run", swappable, "--adapter", f"{style}:0.5", "--seed", "0",
             "--save", work / "out.safetensors"),
        )),
        Step("bench", ((runtime, "bench", engines, "--no-probe", "--loads", "3", "--rounds", "1",
                        "--warmup", "0", "--json", results),)),
        Step("report", ((runtime, "report", results, "-o", work / "report.html"),)),
        Step("inspect", ((ours, "inspect", lora),)),
    ]  # fmt: skip


def list_suite(environment: Environment, jobs: int) -> Step:
    """Return the whole test suite, without lint.

    What old packages warn of newer ones isn't ours to mend, so the oldest don't fail by it.
    """
    lax = ("-W", "default") if environment.name == "oldest" else ()
    return Step("test suite", ((
        environment.bin / "python", "-m", "pytest", "-q", *lax, "-p", "no:cacheprovider",
        "--numprocesses", str(jobs), "--dist", "loadfile", "-m", "not slow",
    ),))  # fmt: skip


def _helps(environment: Environment) -> Iterator[tuple[str | Path, ...]]:
    for name, app in (("wanexport", wanexport), ("wanrt", wanrt)):
        program = environment.bin / name
        yield program, "--help"
        for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
            yield program, command, "--help"
