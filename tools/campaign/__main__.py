"""Attack both commands for a while and add what was found to benchmarks/results/campaign.md.

make campaign CAMPAIGN_ARGS="--minutes 20 --seed 1"
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from campaign.bad_inputs import BadInputs
from campaign.fuzzers import FUZZERS, fuzz
from campaign.kills import Kills
from campaign.tally import Case, Tally
from campaign.workshop import Workshop

ROOT = Path(__file__).parents[2]
FUZZING = 0.1  # of the time


def main() -> int:
    parser = argparse.ArgumentParser(description="Attack both commands for a while.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["kills", "bad inputs"])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/campaign.json")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rng, start, found = random.Random(asked.seed), time.monotonic(), 0
    room = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        workshop = Workshop.make(room / "valid")
        kills, inputs = Kills(workshop, room / "room"), BadInputs(workshop, room / "bad")
        while (begin := time.monotonic()) - start < 60 * asked.minutes * (1 - FUZZING):
            sort = asked.only or rng.choice(["kills", "kills", "kills", "bad inputs"])
            cases = [kills.kill(rng)] if sort == "kills" else inputs.try_some(rng)
            with Tally.open(asked.results) as tally:
                tally.seeds = sorted({*tally.seeds, asked.seed})
                tally.seconds += time.monotonic() - begin
                for case in cases:
                    tally.count(case)
                tally.save(commit())
            bad = [case for case in cases if case.problem]
            found += len(bad)
            for case in bad:
                print(f"bad: {case.kind}: {case.problem} [{case.text}]", flush=True)
        found += fuzz_all(asked.results, 60 * asked.minutes * FUZZING, asked.seed)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    print(f"{found} bad cases; see {asked.results.with_suffix('.md')}")
    return bool(found)


def fuzz_all(results: Path, seconds: float, seed: int) -> int:
    """Run libwanrt's fuzzers and count their inputs; return how many of them found something."""
    bad = 0
    for name in FUZZERS:
        try:
            tried, problem = fuzz(name, ROOT, seconds / len(FUZZERS), seed)
        except FileNotFoundError as error:
            print(f"left out: {error.filename} isn't built; make cpp builds it", file=sys.stderr)
            continue
        bad += bool(problem)
        with Tally.open(results) as tally:
            tally.seconds += seconds / len(FUZZERS)
            tally.count(Case("fuzzed", name, problem, ""), tried)
            tally.save(commit())
    return bad


def commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
