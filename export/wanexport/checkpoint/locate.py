"""Where a checkpoint's files lie: a folder with an index, a single file, or the hub's cache."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wanexport.checkpoint.training_state import refuse_training_state
from wanexport.errors import CheckpointError
from wanexport.storage.hub import cached_snapshot
from wanrt.manifest.schema import Expert
from wanrt.storage.regular import JSON_BYTES, read_regular
from wanrt.terminal.text import first_three

__all__ = ["Location", "find_expert", "locate_checkpoint", "own_path"]

WEIGHTS_NAME = "diffusion_pytorch_model"
INDEX_SUFFIX = ".safetensors.index.json"
INDEX = re.compile(r"\.safetensors\.index(\.[\w-]+)?\.json$")  # of a variant: index.fp16.json
SHARD = re.compile(r"-\d{5}-of-(?!00001)(?P<count>\d{5})\.safetensors$")
EXPERTS = (("transformer", "transformer_2"), ("high_noise_model", "low_noise_model"))

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Location:
    """A checkpoint's files, what its index says of them, and its config.json."""

    path: Path
    files: tuple[Path, ...]
    weight_map: dict[str, str] | None = None
    config: dict[str, object] | None = None


def locate_checkpoint(path_or_id: str) -> Location:
    """Find a checkpoint's files and read its index and config.json, if it has them.

    Raises:
        CheckpointError: there is no safetensors checkpoint, several, or an incomplete one.
    """
    path = Path(path_or_id).expanduser()
    if not path.exists():
        path = cached_snapshot(path_or_id)
    if path.is_dir():
        return _locate_in(path)
    if INDEX.search(path.name):
        return _indexed(path)
    if path.suffix == ".json":
        raise CheckpointError(f"{path} isn't a checkpoint", f"give its folder: {path.parent}")
    if SHARD.search(path.name):
        raise CheckpointError(f"{path} is one of several shards", f"give its folder: {path.parent}")
    return Location(path, (path,))


def find_expert(path_or_id: str, expert: Expert) -> Path | None:
    """Return the folder of one expert in that of a Wan2.2 model; None if it holds no pair.

    Raises:
        CheckpointError: it is missing, or the other expert.
    """
    path = Path(path_or_id).expanduser()
    if not path.exists():
        path = cached_snapshot(path_or_id)
    for high, low in EXPERTS:
        wanted, other = (high, low) if expert == "high" else (low, high)
        if (path / high).is_dir() and (path / low).is_dir():
            return path / wanted
        if path.name == other and (path.parent / wanted).is_dir():
            raise CheckpointError(
                f"{path} is the other expert, not the {expert}-noise one",
                f"give {path.parent}, which holds both",
            )
    return None


def own_path(file: Path) -> Path:
    """Return a file's absolute path with its folder's links followed, but not its own.

    In the hub's cache that is a snapshot's file, which has a name; the blob it links to has a hash.
    """
    return file.parent.resolve() / file.name


def _locate_in(folder: Path) -> Location:
    usual = folder / f"{WEIGHTS_NAME}{INDEX_SUFFIX}"
    indexes = sorted(path for path in folder.glob("*.json") if INDEX.search(path.name))
    single = folder / f"{WEIGHTS_NAME}.safetensors"
    if usual in indexes or len(indexes) == 1:
        index = usual if usual in indexes else indexes[0]
        _warn_of_newer(index, single)
        return _indexed(index)
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and not SHARD.search(files[0].name):
        return Location(folder, (files[0],), config=_read_config(folder))
    if _are_shards(folder, files):
        return Location(folder, tuple(files), config=_read_config(folder))
    if files:
        whole = [file for file in files if not SHARD.search(file.name)]
        raise CheckpointError(
            f"{folder} holds {len(files)} safetensors files and no single index of them: "
            f"{first_three([file.name for file in files])}",
            f"name one: {' or '.join(map(str, whole[:3]))}"
            if whole
            else "move the shards of each checkpoint into a folder of its own",
        )
    for pair in EXPERTS:
        if all((folder / name).is_dir() for name in pair):
            raise CheckpointError(
                f"{folder} holds the two experts of a Wan2.2 model",
                f"name one: {' or '.join(str(folder / name) for name in pair)}; with a --config of "
                "Wan2.2, --expert high, low or both chooses",
            )
    if (folder / "transformer").is_dir():
        return _locate_in(folder / "transformer")
    refuse_training_state(folder)
    quantised = sorted(folder.glob("*.gguf"))
    if quantised:
        return Location(folder, (quantised[0],))
    raise CheckpointError(
        f"{folder} holds no checkpoint: no {usual.name}, no safetensors file, no transformer/"
    )


def _are_shards(folder: Path, files: Sequence[Path]) -> bool:
    """Tell whether files without an index are one checkpoint's shards, by their names.

    Raises:
        CheckpointError: some of them are missing; the others look like parameters trained alone.
    """
    found = [SHARD.search(file.name) for file in files]
    sets = {
        SHARD.sub(f"-of-{m['count']}", file.name) for file, m in zip(files, found, strict=True) if m
    }
    if len(sets) != 1 or not all(found):
        return False
    count = int(next(iter(sets)).rpartition("-")[2])
    if len(files) != count:
        raise CheckpointError(
            f"{folder} holds {len(files)} of {count} shards: "
            f"{first_three([file.name for file in files])}",
            "download the checkpoint again",
        )
    return True


def _warn_of_newer(index: Path, single: Path) -> None:
    """Say which is taken where a single file was written after an index beside it."""
    if single.is_file() and single.stat().st_mtime_ns > index.stat().st_mtime_ns:
        log.warning("%s is newer than %s; the index's files are taken", single, index.name)


def _indexed(path: Path) -> Location:
    folder = path.parent
    index = _read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map", "download the checkpoint again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise CheckpointError(f"{path}: {name}: {file!r} is not a safetensors file's name")
        if Path(file).name != file or "\\" in file or "\0" in file:
            raise CheckpointError(f"{path}: {name}: {file!r} leads out of the folder")
    files = tuple(folder / file for file in sorted(set(weight_map.values())))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {first_three(missing)} of the {len(files)} files "
            f"that {path.name} names",
            "download the checkpoint again",
        )
    return Location(folder, files, weight_map, _read_config(folder))


def _read_config(folder: Path) -> dict[str, object] | None:
    path = folder / "config.json"
    return _read_json(path) if path.is_file() else None


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(read_regular(path, JSON_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object", "download it again")
    return content
