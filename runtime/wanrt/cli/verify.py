"""Rehash an engine folder's files and compare them with the manifest."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanrt.bench.stale import rebuild_command
from wanrt.errors import ManifestError
from wanrt.manifest.read import LINKED, MANIFEST_NAME, check_file, read_manifest_only
from wanrt.manifest.schema import WeightFile
from wanrt.terminal.text import counted, wrap

__all__ = ["Finding", "render_findings", "render_verdict", "verify_engine"]

CHUNK = 8 << 20


@dataclass(frozen=True)
class Finding:
    """What is true of one file: nothing wrong, or a sentence that names it and says what is.

    `copied` says that its time alone is wrong, not its bytes.
    """

    file: str
    bytes: int
    problem: str | None = None
    copied: bool = False

    @property
    def ok(self) -> bool:
        """Whether the file is as recorded."""
        return self.problem is None


def verify_engine(
    folder: Path, *, restore_mtime: bool = False, on_bytes: Callable[[int], None] = lambda _: None
) -> list[Finding]:
    """Check the manifest, then every file it names, byte by byte.

    Args:
        folder: the engine folder.
        restore_mtime: where the bytes are right and only the modification time isn't (the folder
            was copied to another disk), set the recorded one.
        on_bytes: called with the number of bytes just hashed.
    """
    try:
        manifest = read_manifest_only(folder)
    except ManifestError as error:
        return [Finding(MANIFEST_NAME, 0, str(error))]
    found = [Finding(MANIFEST_NAME, (folder / MANIFEST_NAME).stat().st_size)]
    for part in manifest.files:
        problem = _check_bytes(folder, part.file, part.bytes, part.sha256, on_bytes)
        copied = False
        if problem is None and isinstance(part, WeightFile):
            problem = _check_time(folder, part, restore_mtime)
            copied = problem is not None and not restore_mtime
        found.append(Finding(part.file, part.bytes, problem, copied))
    return found


def render_findings(folder: Path, findings: Sequence[Finding]) -> str:
    """Return an engine's verdict, then what is wrong with which file."""
    wrong = [finding for finding in findings if finding.problem]
    files = counted(len(findings), "file")
    if not wrong:
        return f"ok    {folder}: {files}"
    lines = [f"WRONG {folder}: {len(wrong)} of {files}"]
    copied = [finding for finding in wrong if finding.copied]
    several = len(copied) > 1
    told = [one.problem for one in wrong if one.problem and not (several and one.copied)]
    if several:
        told.append(f"{len(copied)} files: their bytes are right, their mtime isn't")
    for problem in told:
        lines += wrap(problem, " " * 8, first=" " * 6, whole_words=True)
    return "\n".join(lines)


def render_verdict(paths: Sequence[Path], findings: Mapping[Path, Sequence[Finding]]) -> str:
    """Return what helps engines that aren't right, then how many that is.

    Args:
        paths: what was asked for, which the advice repeats.
        findings: every engine folder's.
    """
    wrong = {f: found for f, found in findings.items() if not all(one.ok for one in found)}
    if not wrong:
        return f"{counted(len(findings), 'engine')} ok"
    lines = []
    damaged = [f for f, found in wrong.items() if any(not (o.ok or o.copied) for o in found)]
    if damaged:
        lines.append("rebuild what isn't as recorded, or copy it again:")
        lines += [f"  {_rebuild(folder)}" for folder in damaged]
    if any(one.copied for found in wrong.values() for one in found):
        again = shlex.join(["wanrt", "verify", *map(str, paths), "--restore-mtime"])
        lines += ["where only times differ, the engine was copied; set the recorded ones:"]
        lines.append(f"  {again}")
    return "\n".join([*lines, f"{len(wrong)} of {counted(len(findings), 'engine')} wrong"])


def _rebuild(folder: Path) -> str:
    try:
        return rebuild_command(folder, read_manifest_only(folder))
    except ManifestError:
        return f"{folder}: engine.json, which says how, can't be read"


def verify_size(folder: Path) -> int:
    """Return how many bytes `verify_engine` will hash; 0 if the manifest can't be read."""
    try:
        manifest = read_manifest_only(folder)
    except ManifestError:
        return 0
    return sum(part.bytes for part in manifest.files)


def _check_bytes(
    folder: Path, file: str, size: int, sha256: str, on_bytes: Callable[[int], None]
) -> str | None:
    try:
        check_file(folder, file, size)
        digest = hashlib.sha256()
        with (folder / file).open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                on_bytes(len(chunk))
    except (ManifestError, OSError) as error:
        return str(error)
    if digest.hexdigest() == sha256:
        return None
    return f"{file}: its bytes are not the recorded ones (sha256)"


def _check_time(folder: Path, weights: WeightFile, restore: bool) -> str | None:
    path = folder / weights.file
    if weights.storage not in LINKED or path.stat().st_mtime_ns == weights.mtime_ns:
        return None
    problem = f"{weights.file}: its bytes are right, its mtime isn't"
    if not restore:
        return problem
    try:
        os.utime(path, ns=(path.stat().st_atime_ns, weights.mtime_ns))
    except OSError as error:
        return f"{problem}, and can't be set: {error.strerror}"
    return None
