"""`wanrt verify`: files that differ from their manifest, and what to do about them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import ENGINES, Engines, Quiet
from wanrt.terminal.screen import print_line
from wanrt.terminal.text import counted, wrap

if TYPE_CHECKING:
    from wanrt.manifest.folder import OpenedFolder
    from wanrt.manifest.rehash import Finding

__all__ = ["render_findings", "render_verdict", "verify"]


def verify(
    engines: Engines = None,
    restore_mtime: Annotated[
        bool,
        typer.Option(
            help="Where only a file's modification time differs, set it to the recorded one.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Rehash every file of engines and compare with engine.json."""
    from wanrt.bench.discover import open_engines
    from wanrt.manifest.folder import EngineFolder
    from wanrt.manifest.rehash import verify_engine
    from wanrt.terminal.progress import Reporter

    folders = open_engines(engines or ENGINES)
    findings = []
    total = sum(folder.bytes for folder in folders if isinstance(folder, EngineFolder))
    with Reporter(quiet=quiet).bytes("rehashing", total) as piece:
        for folder in folders:
            found = verify_engine(folder, restore_mtime=restore_mtime, on_bytes=piece.advance)
            print_line(render_findings(folder.path, found))
            findings.append((folder, found))
    print_line(render_verdict(engines or ENGINES, findings))
    if not all(one.ok for _, found in findings for one in found):
        raise typer.Exit(1)


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


def render_verdict(
    paths: Sequence[Path], findings: Sequence[tuple[OpenedFolder, Sequence[Finding]]]
) -> str:
    """Return how to mend the engines that differ, then their number.

    Args:
        paths: what was asked for, which the advice repeats.
        findings: every engine folder's.
    """
    wrong = [(f, found) for f, found in findings if not all(one.ok for one in found)]
    if not wrong:
        return f"{counted(len(findings), 'engine')} ok"
    lines = []
    damaged = [f for f, found in wrong if any(not (o.ok or o.copied) for o in found)]
    if damaged:
        lines.append("rebuild what isn't as recorded, or copy it again:")
        lines += [f"  {_rebuild(folder)}" for folder in damaged]
    if any(one.copied for _, found in wrong for one in found):
        again = shlex.join(["wanrt", "verify", *map(str, paths), "--restore-mtime"])
        lines += ["where only times differ, the bytes are right; set the recorded ones:"]
        lines.append(f"  {again}")
    return "\n".join([*lines, f"{len(wrong)} of {counted(len(findings), 'engine')} wrong"])


def _rebuild(folder: OpenedFolder) -> str:
    from wanrt.manifest.folder import EngineFolder

    if isinstance(folder, EngineFolder):
        return folder.manifest.rebuild_command
    return f"{folder.path}: engine.json, which says how, can't be read"
