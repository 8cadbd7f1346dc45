"""`wanexport adapter`: LoRA files of any dialect become the one file that runtimes load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wanexport.errors import AdapterError, BuildError
from wanexport.lora.adapter import split_rest
from wanexport.lora.canonical import write_adapter
from wanexport.lora.choose import Choice
from wanexport.lora.find import LoraArgument, find_lora, resolve_adapters
from wanexport.model.config import parse_config
from wanexport.model.names import module_shapes
from wanexport.storage.hashes import hash_files
from wanrt.errors import WanrtError
from wanrt.manifest.read import read_manifest
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
    try:
        manifest = read_manifest(engine)
    except WanrtError as error:
        raise BuildError(str(error), error.hint) from None
    inputs = manifest.adapter_inputs
    if not inputs:
        raise BuildError(
            f"{engine} is a {manifest.mode} engine; its adapter can't be changed",
            "build a swappable one: wanexport build --mode swappable --rank 32",
        )
    if output.exists() and not force:
        raise BuildError(f"{output} exists", "replace it with --force")
    files = [(find_lora(lora.path), lora.strength) for lora in loras]
    check_writable(output, [path for path, _ in files])
    downs = [spec for spec in inputs if spec.role == "lora_A"]  # [rank, in] each
    config = parse_config(manifest.config, str(engine / "engine.json"))
    shapes = module_shapes(config.architecture)
    choice = Choice(manifest.expert, skip_image_keys)
    adapters = resolve_adapters(files, shapes, reporter, choice)
    carried, rest = split_rest(adapters)
    digests = hash_files("the LoRA", (path for path, _ in files), reporter)
    below = {(s.sha256, s.strength) for s in manifest.sources if manifest.mode == "swappable"}
    rest = tuple(a for a in rest if (digests[a.path], a.strength) not in below)
    if rest:
        parts = [part for adapter in rest for part in adapter.describe_parts()]
        raise AdapterError(
            f"{rest[0].path}: a {manifest.mode} engine can't carry {first_and_more(parts)}",
            "build an engine with that part in its base: wanexport build --mode swappable "
            "--merge-rest --lora FILE",
        )
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
