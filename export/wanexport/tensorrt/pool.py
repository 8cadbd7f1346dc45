"""Plans that engines share: built once, kept by key in `engines/.plans`, linked from there.

Everything that shapes a plan is in its key: graph, settings, library, GPU, and the weights that it
is bound to.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wanexport.errors import WanExportError
from wanexport.storage.hashes import remember_sha256, sha256_file
from wanexport.storage.links import place_file
from wanexport.storage.locks import locked
from wanexport.tensorrt.builder import build_plan
from wanexport.tensorrt.protocol import BuilderJob, Finished, Phase
from wanexport.tensorrt.settings import PlanSettings
from wanrt.storage.files import atomic_file, atomic_path

__all__ = ["PlanPool"]


@dataclass(frozen=True)
class PlanPool:
    """Plans by key: `engines/.plans`."""

    folder: Path

    def find(self, key: str) -> Finished | None:
        """Return the record of an existing plan with unchanged bytes, or None."""
        account = self.folder / f"{key}.json"
        try:
            found = Finished.model_validate_json(account.read_text(encoding="utf-8"))
            sound = sha256_file(self.path(key)) == found.sha256
        except (OSError, ValueError, WanExportError):
            return None
        return found if sound else None

    def drop(self, key: str) -> None:
        """Forget a plan; engines that link to it keep theirs."""
        self.path(key).unlink(missing_ok=True)
        (self.folder / f"{key}.json").unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        """Return where a plan is or will be."""
        return self.folder / f"{key}.plan"

    def timing_cache(self, settings: PlanSettings) -> Path | None:
        """Return the timings of this GPU and library version; without a GPU nothing is timed."""
        toolchain = settings.toolchain
        if toolchain is None or toolchain.gpu is None:
            return None
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", toolchain.gpu)
        return self.folder / f"{toolchain.backend}-{toolchain.library}-{gpu}.timing"

    def make(self, key: str, job: BuilderJob, on_phase: Callable[[Phase], None]) -> Finished:
        """Build a plan, unless another build just did, and keep it under its key.

        Builds that time kernels wait for one another, whatever they build.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = ".timing.lock" if job.timing_cache else f".{key}.lock"
        with locked(self.folder / name):
            found = self.find(key)
            if found is None:
                with atomic_path(self.path(key)) as temporary:
                    job = job.model_copy(update={"plan": str(temporary.resolve())})
                    found = build_plan(job, on_phase)
                remember_sha256(self.path(key), found.sha256)
                with atomic_file(self.folder / f"{key}.json") as file:
                    file.write(found.model_dump_json(indent=1).encode())
        return found

    def place(self, key: str, target: Path) -> None:
        """Give an engine folder a plan, by hard link where the file system can."""
        if place_file(self.path(key), target, clone=False) is None:
            shutil.copyfile(self.path(key), target)

    def sweep(self) -> int:
        """Delete what no engine links to any more and return how many bytes that freed."""
        freed = 0
        for path in self.folder.glob("*.plan"):
            if path.stat().st_nlink == 1:
                freed += path.stat().st_size
                self.drop(path.stem)
        for lock in self.folder.glob(".*.lock"):
            lock.unlink(missing_ok=True)
        return freed
