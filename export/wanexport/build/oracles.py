"""Who else read the LoRAs of an engine, asked once per file of a build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wanexport.build.targets import Target
from wanexport.verify.adapter_oracle import Answer, Oracle, ask_oracle
from wanrt.terminal.progress import Reporter

__all__ = ["Oracles"]


@dataclass
class Oracles:
    """Asks PEFT or diffusers about each LoRA file once.

    Args:
        reporter: receives a line per file that nobody else can read.
    """

    reporter: Reporter
    _answers: dict[Path, Answer] = field(default_factory=dict)

    def ask(self, target: Target) -> Oracle | None:
        """Return which other reader agrees on a target's adapters; None if it can't read them.

        Where PEFT read one file and diffusers another, it is diffusers, whose loader uses both.

        Raises:
            VerificationError: another reader says something else than ours.
        """
        found: set[Oracle | None] = set()
        for adapter in target.all_adapters:
            if adapter.path not in self._answers:
                with self.reporter.work(f"asking who else can read {adapter.path.name}"):
                    answer = ask_oracle(adapter)
                self._answers[adapter.path] = answer
                if answer.oracle is None:
                    self.reporter.log(
                        f"{adapter.path}: nobody else can check its scale: {answer.reason}"
                    )
            found.add(self._answers[adapter.path].oracle)
        if not found or None in found:
            return None
        return "diffusers" if "diffusers" in found else "peft"
