"""Whether an existing engine can be reused: compare everything that shapes it, then and now."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from wanexport import __version__
from wanexport.build.folder import why_not_replace
from wanexport.build.targets import Action, Target
from wanexport.storage.hashes import sha256_text
from wanexport.storage.source_hash import hash_packages
from wanrt.errors import WanrtError
from wanrt.manifest.copies import accept_copies
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Manifest, Mode

__all__ = ["appeared_meanwhile", "code_hash", "decide_action", "describe_inputs"]

# What shapes an artefact besides its sources; a new release of one means a new engine.
TOOLS = ("torch", "diffusers", "onnx", "onnx-ir", "onnxscript")
# The packages whose code shapes every engine; `lora` does where there is an adapter, `tensorrt`
# where there is a plan (`PlanSettings.shaping`). The others only look at what was made.
SHAPING = ("build", "checkpoint", "graph", "model", "storage", "weights")
SAME = "up to date"


def describe_inputs(target: Target) -> dict[str, str]:
    """Return all that shapes an engine, as engine.json records it."""
    config = target.config.model_dump(mode="json", exclude={"name"})
    if not target.dynamic:
        del config["dynamic_sizes"]
    inputs = {
        "config": json.dumps(config, sort_keys=True),
        "mode": target.mode,
        "dynamic": str(target.dynamic),
        "weights": "copy" if target.copy else "link",
        "verified": str(target.verify),
        "base": ",".join(digest for _, digest in target.weights.files) or "not made yet",
        "adapter": ",".join(
            f"{sha}@{strength!r}" for s in target.adapters for _, sha, strength in s.sources
        ),
        "ranks": sha256_text(json.dumps(dict(target.ranks), sort_keys=True)),
        "wanexport": f"{__version__}+{code_hash(target.mode)}",
    }
    inputs |= {tool: _version(tool) for tool in TOOLS}
    if prefuse := target.weights.prefuse:
        held = [f"{one.sha256}@{one.adapter.strength!r}" for one in prefuse]
        inputs["prefuse"] = ",".join(held)
    if target.form:
        digest = sha256_text("\n".join(target.quantized))
        inputs["quantization"] = f"{target.form.scheme} {digest[:12]}"
    if target.split:
        inputs["split"] = "True"
    if target.cards > 1:
        inputs["cards"] = str(target.cards)
    if target.expert is not None:
        inputs["expert"] = target.expert
    if skipped := [key for adapter in target.all_adapters for key in adapter.skipped]:
        inputs["skipped keys"] = ",".join(sorted(skipped))
    if target.swap_rank is not None:
        inputs["swap rank"] = str(target.swap_rank)
    if target.tensorrt:
        shaping = target.tensorrt.shaping | {"control": target.control}
        if target.ranks:
            inputs["joined"] = sha256_text("\n".join(target.joined))
        inputs["backend"] = json.dumps(shaping, sort_keys=True)
    return inputs


def decide_action(target: Target) -> tuple[Action, str]:
    """Compare what an existing folder was built from with what it would be built from now."""
    if not os.path.lexists(target.folder):
        return "build", "new"
    try:
        manifest = read_manifest(target.folder)
        accept_copies(target.folder, manifest)
        reason = _difference(manifest, target.inputs)
    except WanrtError as error:
        reason = str(error)
    if not reason and not target.force:
        return "reuse", SAME
    if foreign := why_not_replace(target.folder):
        return "foreign", foreign
    return ("replace" if target.force else "conflict"), reason or "--force"


def appeared_meanwhile(target: Target) -> bool:
    """Whether another build has made exactly this engine since it was resolved."""
    return target.action == "build" and decide_action(target)[1] == SAME


def _difference(manifest: Manifest, inputs: Mapping[str, str]) -> str:
    """Name the first input that differs, or nothing."""
    for key, value in inputs.items():
        was = manifest.inputs.get(key)
        if was == value:
            continue
        if key == "verified" and was == "True":
            continue  # more than was asked for
        short = len(value) < 24 and len(was or "") < 24
        return f"{key} was {was}, is {value}" if short else f"it was built from another {key}"
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def code_hash(mode: Mode, root: Path = Path(__file__).parents[1]) -> str:
    """Hash the packages on an engine's path, so that no engine outlives the code that made it."""
    packages = SHAPING if mode == "full" else (*SHAPING, "lora")
    return hash_packages(root, packages)[:12]
