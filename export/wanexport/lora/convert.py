"""`wanexport adapter`: LoRA files of any dialect become the one file that runtimes load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wanexport.errors import AdapterError, BuildError, UsageError
from wanexport.lora.adapter import Adapter, split_rest
from wanexport.lora.canonical import write_adapter
from wanexport.lora.choose import Choice
from wanexport.lora.find import LoraArgument, find_lora, resolve_adapters
from wanexport.model.config import parse_config
from wanexport.model.names import module_shapes
from wanexport.storage.hashes import hash_files
from wanexport.storage.tensor_file import open_safetensors
from wanrt.errors import WanrtError
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Manifest
from wanrt.storage.files import check_writable
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import first_and_more

__all__ = ["make_canonical"]


def make_canonical(
    loras: Sequence[LoraArgument],
    engine: Path,
    output: Path,
    reporter: Reporter,
    *,
    skip_image_keys: bool = False,
    force: bool,
) -> int:
    """Write the canonical adapter of one engine that can swap, and return its rank.

    Of a file that holds LoRAs of both of Wan2.2's experts, the engine's own half is taken. What a
    swappable engine can't carry of the LoRA that it was built with is in its base already.

    Raises:
        AdapterError: a file can't be applied in full by that engine: another architecture, a rank
            or a module it has no room for, a part that isn't low-rank.
        BuildError: the engine's adapter can't be changed, or the output exists.
    """
    manifest = _read_swapping(engine)
    inputs = manifest.adapter_inputs
    if output.exists() and not force:
        raise BuildError(f"{output} exists", "replace it with --force")
    found = [(find_lora(lora.path), lora.strength) for lora in loras]
    check_writable(output, [path for path, _ in found])
    for path, _ in found:
        open_safetensors(path, AdapterError)  # before its bytes are hashed: a pipe has no end
    digests = hash_files("the LoRA", (path for path, _ in found), reporter)
    files = _leave_prefused(found, digests, manifest, output, reporter)
    downs = [spec for spec in inputs if spec.role == "lora_A"]  # [rank, in] each
    config = parse_config(manifest.config, str(engine / "engine.json"))
    shapes = module_shapes(config.architecture)
    choice = Choice(manifest.expert, skip_image_keys)
    carried, rest = split_rest(resolve_adapters(files, shapes, reporter, choice))
    _check_rest(rest, digests, manifest, reporter)
    try:
        with reporter.bytes(f"writing {output.name}", None) as piece:
            return write_adapter(
                carried,
                output,
                inputs[0].dtype,
                max_rank=max(
                    (dim for spec in downs for dim in spec.shape[:1] if isinstance(dim, int)),
                    default=None,
                ),
                targets=[spec.module or "" for spec in downs],
                on_bytes=piece.advance,
            )
    except OSError as error:
        raise BuildError(f"{output} can't be written: {error.strerror or error}") from None


def _read_swapping(engine: Path) -> Manifest:
    """Read the manifest of an engine whose adapter can be changed; BuildError if it can't."""
    try:
        manifest = read_manifest(engine)
    except WanrtError as error:
        raise BuildError(str(error), error.hint) from None
    if not manifest.adapter_inputs:
        raise BuildError(
            f"{engine} is a {manifest.mode} engine; its adapter can't be changed",
            "build a swappable one: wanexport build --mode swappable --rank 32",
        )
    return manifest


def _leave_prefused(
    files: Sequence[tuple[Path, float]],
    digests: Mapping[Path, str],
    manifest: Manifest,
    output: Path,
    reporter: Reporter,
) -> list[tuple[Path, float]]:
    """Return the files that the engine's base doesn't have, which have no strength of their own."""
    fused = {one.sha256: one.strength for one in manifest.prefuse}
    left = []
    for path, strength in files:
        there = fused.get(digests[path])
        if there is not None and there != strength:
            raise AdapterError(
                f"{path} is in the engine's base at strength {there:g}, {strength:g} was asked for",
                f"leave it out, or build an engine with --prefuse {path}:{strength:g}",
            )
        if there is not None:
            reporter.log(f"{path}: left out, the engine's base has it at strength {there:g}")
        elif strength != 1:
            raise UsageError(
                f"{path}:{strength:g}: an adapter file has no strength of its own",
                f"give it where it is loaded: wanrt run --adapter {output}:{strength:g}",
            )
        else:
            left.append((path, strength))
    if not left:
        raise AdapterError(
            f"{manifest.name} has all of this in its base, so there is nothing to load",
            "run it without an adapter",
        )
    return left


def _check_rest(
    rest: Sequence[Adapter], digests: Mapping[Path, str], manifest: Manifest, reporter: Reporter
) -> None:
    """Refuse parts that can't be loaded, unless the engine's base has them (`--merge-rest`)."""
    merged = {s.sha256: s.strength for s in manifest.sources if s.strength is not None}
    for adapter in rest:
        strength = merged.get(digests[adapter.path])
        if manifest.mode != "swappable" or strength is None:
            raise AdapterError(
                f"{adapter.path}: a {manifest.mode} engine can't carry "
                f"{first_and_more(adapter.describe_parts())}",
                "build an engine with that part in its base: wanexport build --merge-rest "
                f"--lora {adapter.path}",
            )
        reporter.log(
            f"{adapter.path}: the engine's base has {first_and_more(adapter.describe_parts())} at "
            f"strength {strength:g}; the rest is converted"
        )
