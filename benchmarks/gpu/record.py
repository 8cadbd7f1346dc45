"""Results on disk: saved after every step, so that a run that was broken off goes on there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from wanrt.storage.files import write_text

Step = dict[str, object]


class Record:
    """Steps by part and name, of one card with one set of libraries.

    Args:
        file: where they are kept.
        context: what the results depend on; those of another context are not gone on with.
    """

    def __init__(self, file: Path, context: Step) -> None:
        self.file = file
        self.steps: dict[str, dict[str, Step]] = {}
        self.context = context
        if file.exists():
            earlier = json.loads(file.read_text(encoding="utf-8"))
            differing = [k for k, v in context.items() if earlier["context"].get(k) != v]
            if differing:
                sys.exit(
                    f"error: {file} was measured with another {', '.join(differing)}\n"
                    "hint: give another folder with --work, or delete that file"
                )
            self.steps = earlier["steps"]

    def find(self, part: str, name: str) -> Step | None:
        """Return a step that is done, or None. One that failed is done again."""
        step = self.steps.get(part, {}).get(name)
        return None if step is None or "failed" in step else step

    def save(self, part: str, name: str, step: Step) -> None:
        """Keep a step's result, on disk at once."""
        self.steps.setdefault(part, {})[name] = step
        value = {"context": self.context, "steps": self.steps}
        write_text(self.file, json.dumps(value, indent=1, allow_nan=False) + "\n")
