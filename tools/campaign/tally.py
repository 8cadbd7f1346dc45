"""What campaigns found, added up over runs, and the table that says so."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Case", "Tally"]

GOALS = {"kills": 500, "bad inputs": 2000, "fuzzed": 0}
TEXT = """# Campaign

`make campaign` kills commands at random times, gives them generated bad inputs, on engines of two
layers, and runs libwanrt's fuzzers. Counts add up over runs, of another seed each; CAMPAIGN_ARGS
gives minutes and seed, as tools/campaign says. Bad is: a traceback, an exit status other
than 0, 1, 2 (130 after SIGTERM), over 30 s of processor time or 2 GiB, a process, draft or
temporary file that stays, a changed input, an engine that doesn't verify, a second run that fails
or makes other engines than an undisturbed one.

{minutes:.0f} minutes, seeds {seeds}, commit {commit}.

| what | tried | bad |
|---|--:|--:|
"""


@dataclass(frozen=True)
class Case:
    """One case: `kills` or `bad inputs`, which command, what was wrong if anything, its words."""

    sort: str
    kind: str
    problem: str
    text: str


@dataclass
class Tally:
    """Counts by sort and kind, and the latest bad cases in words."""

    path: Path
    seeds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    tried: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    cases: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Written into the JSON by hand, and kept: what became of what was found."""

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Tally]:
        """Add to the counts of earlier campaigns, and of those that run beside this one."""
        folder = os.open(path.parent, os.O_RDONLY)  # its lock leaves no file
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            held = json.loads(path.read_text()) if path.exists() else {}
            tried, bad = (Counter(held.pop(name, {})) for name in ("tried", "bad"))
            yield cls(path, tried=tried, bad=bad, **held)
        finally:
            os.close(folder)

    def count(self, case: Case, tried: int = 1) -> None:
        """Count one case, or so many of which one at most was bad."""
        name = f"{case.sort}: {case.kind}"
        self.tried[name] += tried
        if case.problem:
            self.bad[name] += 1
            self.cases.append(f"{name}: {case.problem} [{case.text}]")

    def save(self, commit: str) -> None:
        """Write the counts as JSON, and as a table beside it."""
        held = {
            "seeds": self.seeds, "seconds": round(self.seconds), "tried": dict(self.tried),
            "bad": dict(self.bad), "cases": self.cases, "notes": self.notes,
        }  # fmt: skip
        self.path.write_text(json.dumps(held, indent=1) + "\n")
        text = TEXT.format(
            minutes=self.seconds / 60, seeds=", ".join(map(str, self.seeds)), commit=commit
        )
        for sort, goal in GOALS.items():
            names = sorted(name for name in self.tried if name.startswith(f"{sort}: "))
            tried, bad = sum(self.tried[n] for n in names), sum(self.bad[n] for n in names)
            aim = f" (goal {goal})" if goal else ""
            text += f"| **{sort}**{aim} | **{tried}** | **{bad}** |\n"
            text += "".join(
                f"| {name} | {self.tried[name]} | {self.bad[name]} |\n" for name in names
            )
        listed = [*self.cases, *self.notes]
        text += "\n" * bool(listed) + "".join(f"- {one}\n" for one in listed)
        self.path.with_suffix(".md").write_text(text)
