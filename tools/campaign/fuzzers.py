"""libwanrt's two fuzzers, which `make cpp` builds, for as long as is asked."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

__all__ = ["FUZZERS", "fuzz"]

FUZZERS = ("manifest", "safetensors")
EXECUTED = re.compile(r"number_of_executed_units: *(\d+)")


def fuzz(name: str, root: Path, seconds: float, seed: int) -> tuple[int, str]:
    """Run a fuzzer; return how many inputs it tried, and what it found, if anything.

    Raises:
        FileNotFoundError: it isn't built.
    """
    tool = root / "build/cpp/sanitized/fuzz" / f"wanrt-fuzz-{name}"
    seeds = root / "runtime/cpp/fuzz/corpus" / name
    with tempfile.TemporaryDirectory() as room:
        limits = [f"-max_total_time={max(1, round(seconds))}", "-timeout=5", f"-seed={seed + 1}"]
        said = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={room}/found-"]
        argv = [str(tool), *limits, *said, room, str(seeds)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = EXECUTED.search(done.stderr)
    tried = int(found[1]) if found else 0
    return tried, done.stderr[-500:] if done.returncode else ""
