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
from campaign.kills import Kills
from campaign.tally import Tally
from campaign.workshop import Workshop

ROOT = Path(__file__).parents[2]


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
        while (begin := time.monotonic()) - start < 60 * asked.minutes:
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
    finally:
        shutil.rmtree(room, ignore_errors=True)
    print(f"{found} bad cases; see {asked.results.with_suffix('.md')}")
    return bool(found)


def commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
