"""Engines whose files or sources changed since they were made, and what makes them anew."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from wanrt.errors import ManifestError
from wanrt.manifest.read import LINKED, MANIFEST_NAME, read_manifest_only
from wanrt.manifest.schema import Manifest, Source
from wanrt.results.values import Advice
from wanrt.storage.hub import hub_file

__all__ = ["find_stale", "rebuild_command"]

MADE = ".made"  # where wanexport keeps the seeded weights and adapters that nobody gave it
VALUED = {
    "--builder-optimization-level": "optimization_level",
    "--workspace": "workspace",
    "--max-aux-streams": "aux_streams",
    "--hardware-compatibility-level": "hardware_compatibility",
}
SWITCHES = {
    "--version-compatible": "version_compatible",
    "--allow-weight-streaming": "weight_streaming",
    "--allow-unfused": "allow_unfused",
}


def find_stale(folder: Path) -> Advice | None:
    """Return a warning if an engine no longer is what it was made from; nothing is hashed.

    A file of the folder has another size, or the time of a linked one isn't the recorded one: then
    it won't load. Or a source was written after the engine: then it runs, as it was made.
    """
    try:
        manifest = read_manifest_only(folder)
    except ManifestError:
        return None  # whoever reads it says why
    changed = next(_changed_files(folder, manifest), None)
    rebuild = rebuild_command(folder, manifest)
    if changed:
        verify = shlex.join(["wanrt", "verify", str(folder), "--restore-mtime"])
        hint = f"rebuild it; or, if it was copied, compare the bytes:\n{rebuild}\n{verify}"
        return Advice("stale", f"{folder}: {changed}", hint)
    newer = next(_newer_sources(folder, manifest), None)
    if newer:
        text = f"{folder}: {newer.path} was written after the engine was made from it"
        return Advice("stale", text, f"rebuild it:\n{rebuild}")
    return None


def rebuild_command(folder: Path, manifest: Manifest) -> str:
    """Return the `wanexport build` that makes an engine again in place.

    The engine.json itself is its configuration. Sources are named as they were then, relative to
    the folder that wanexport ran in.
    """
    argv = ["wanexport", "build", "--config", str(folder / MANIFEST_NAME)]
    argv += ["--mode", manifest.mode, *_sources(manifest)]
    max_rank = manifest.max_rank or manifest.inputs.get("swap rank")
    if max_rank is not None:
        argv += ["--max-rank", str(max_rank)]
    merged_rest = any(file.origin == "merged" for file in manifest.weights)
    flags = {
        "--merge-rest": manifest.mode in ("separate", "swappable") and merged_rest,
        "--dynamic": manifest.inputs.get("dynamic") == "True",
        "--weights copy": manifest.inputs.get("weights") == "copy",
        "--verify none": manifest.verification.method == "none",
    }
    argv += [part for flag, given in flags.items() if given for part in flag.split()]
    if manifest.backend != "onnxruntime":
        argv += ["--backend", manifest.backend, *_plan_flags(manifest)]
    return shlex.join([*argv, "--out", str(folder.parent), "--force"])


def _changed_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    linked = {file.file: file.mtime_ns for file in manifest.weights if file.storage in LINKED}
    for file in manifest.files:
        try:
            stat = (folder / file.file).stat()
        except OSError:  # missing: whoever reads it says so
            continue
        if stat.st_size != file.bytes:
            yield f"{file.file} has {stat.st_size:,} bytes, not {file.bytes:,}"
        elif linked.get(file.file, stat.st_mtime_ns) != stat.st_mtime_ns:
            yield f"{file.file}, which is linked, was written to, or the engine was copied"


def _newer_sources(folder: Path, manifest: Manifest) -> Iterator[Source]:
    made_ns = (folder / MANIFEST_NAME).stat().st_mtime_ns
    for source in manifest.sources:
        path = Path(source.path)
        if path.is_file() and path.stat().st_mtime_ns > made_ns:
            yield source


def _sources(manifest: Manifest) -> list[str]:
    """Return the flags that name an engine's checkpoint and adapters."""
    checkpoint = [Path(s.path) for s in manifest.sources if s.strength is None]
    adapters = [s for s in manifest.sources if s.strength is not None]
    base = _checkpoint(checkpoint)
    argv = ["--finetuned" if manifest.full_finetune else "--base", base]
    if adapters and all(Path(s.path).parent.name == MADE for s in adapters):
        ranks = [manifest.rank, *(file.rank for file in manifest.adapters)]
        return argv + [part for rank in ranks if rank for part in ("--rank", str(rank))]
    return argv + [part for s in adapters for part in ("--lora", _lora(s))]


def _plan_flags(manifest: Manifest) -> list[str]:
    """Return the flags that shaped a TensorRT plan, from what the engine was made from."""
    try:
        made: dict[str, object] = dict(json.loads(manifest.inputs["backend"]))
    except (KeyError, TypeError, ValueError):
        return []  # another release's; the defaults are the best guess
    argv = ["--bake"] if made.get("refit") == "baked" else ["--refit", str(made.get("refit"))]
    capabilities = made.get("capabilities")
    if isinstance(capabilities, list) and capabilities:
        argv += ["--compute-capability", ",".join(map(str, capabilities))]
    for flag, key in VALUED.items():
        if made.get(key) not in (None, "none"):
            argv += [flag, f"{made[key]}{'B' if key == 'workspace' else ''}"]
    argv += [flag for flag, key in SWITCHES.items() if made.get(key) is True]
    if manifest.backend == "tensorrt" and manifest.mode == "full" and not made.get("control"):
        argv.append("--no-build-control")
    return argv


def _checkpoint(files: Sequence[Path]) -> str:
    first = files[0] if files else Path("random")
    if first.parent.parent.name == MADE:
        return "random"
    cached = hub_file(first)
    if cached is not None:
        return cached.repo_path(cached.inside if len(files) == 1 else cached.inside.parent)
    return str(first if len(files) == 1 else first.parent)


def _lora(source: Source) -> str:
    return source.path if source.strength == 1.0 else f"{source.path}:{source.strength!r}"
