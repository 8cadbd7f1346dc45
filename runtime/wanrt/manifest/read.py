"""engine.json and the files that it names, read and checked."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from wanrt.errors import ManifestError
from wanrt.manifest.schema import SCHEMA_VERSION, Manifest
from wanrt.storage.files import real_path
from wanrt.storage.regular import JSON_BYTES, read_regular_text
from wanrt.storage.strict_json import parse_json

__all__ = [
    "check_file", "check_sizes", "parse_manifest", "read_manifest", "read_manifest_only",
]  # fmt: skip

MANIFEST_NAME = "engine.json"
# `--force` replaces nothing whose engine.json can't be read
AGAIN = "move the folder away and build the engine again"


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder/engine.json`, without touching the weights.

    Raises:
        ManifestError: the file is missing, malformed, of a newer schema, or names a file that is
            outside the folder, is missing, or has another size than recorded.
    """
    manifest = read_manifest_only(folder)
    check_sizes(folder, manifest)
    return manifest


def read_manifest_only(folder: Path) -> Manifest:
    """Read `folder/engine.json` without looking at the files that it names.

    Raises:
        ManifestError: the file is missing, malformed or of a newer schema.
    """
    path = folder / MANIFEST_NAME
    return parse_manifest(_read_text(path), str(path))


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse engine.json's text; `where` names it in errors."""
    try:
        raw = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is not JSON: {error}", AGAIN) from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{where} is not a JSON object", AGAIN)
    version = raw.get("schema_version")
    if isinstance(version, bool | float):  # pydantic takes both for the 1 that they equal
        raise ManifestError(f"{where}: schema_version: Input should be 1", AGAIN)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ManifestError(
            f"{where} has schema version {version}, this wanrt reads up to {SCHEMA_VERSION}",
            "install a newer wanexport",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "engine.json"
        problem = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise ManifestError(f"{where}: {place}: {problem}", AGAIN) from None


def _read_text(path: Path) -> str:
    try:
        return read_regular_text(path, JSON_BYTES)
    except FileNotFoundError:
        raise ManifestError(
            f"{path.parent} is not an engine folder: it has no {path.name}",
            "build one: wanexport build --rank 32",
        ) from None
    except NotADirectoryError:
        raise ManifestError(f"{path.parent} is a file, not an engine folder") from None
    except OSError as error:
        raise ManifestError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} can't be read: {error}") from None


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Check that every file that a manifest names is in the folder and has the recorded size.

    Raises:
        ManifestError: one is missing, leads out of the folder, or has another size.
    """
    for part in manifest.files:
        check_file(folder, part.file, part.bytes)


def check_file(folder: Path, file: str, size: int) -> None:
    """Check that a file is in the folder and has the recorded size.

    Raises:
        ManifestError: it is missing, leads out of the folder, or has another size.
    """
    path = folder / file
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ManifestError(f"{path} is missing", "rebuild the engine with --force") from None
    if not resolved.is_relative_to(real_path(folder)):
        raise ManifestError(f"{path} leads out of the engine folder", "rebuild the engine")
    if not resolved.is_file():
        raise ManifestError(f"{path} is not a file", "rebuild the engine")
    if resolved.stat().st_size != size:
        raise ManifestError(
            f"{path} has {resolved.stat().st_size:,} bytes, engine.json says {size:,}",
            "rebuild the engine with --force",
        )
