"""`wanrt info`: an engine's manifest as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import EngineFolder
from wanrt.storage.hub import hub_file
from wanrt.terminal.screen import print_line
from wanrt.terminal.text import counted, group_digits, wrap
from wanrt.terminal.units import show_bytes, show_share

if TYPE_CHECKING:
    from wanrt.manifest.fields import TensorSpec
    from wanrt.manifest.origin import Fidelity, Prefused, Quantization, Source, Verification
    from wanrt.manifest.plan import PlanFile
    from wanrt.manifest.schema import AdapterFile, Manifest

__all__ = ["info", "render_info", "show_sources"]

INDENT = 14


def info(
    folder: EngineFolder,
    json: Annotated[bool, typer.Option("--json", help="Print engine.json itself.")] = False,
) -> None:
    """Show what an engine is and what it was made from."""
    from wanrt.manifest.read import read_manifest

    manifest = read_manifest(folder)
    print_line(manifest.to_json() if json else render_info(folder, manifest), end="")


def render_info(folder: Path, manifest: Manifest) -> str:
    """Return what the engine is, in lines of at most 79 columns unless a name is longer."""
    lines = [str(folder)]
    for key, value in _facts(manifest):
        lines += wrap(value, " " * INDENT, first=key.ljust(INDENT), whole_words=True)
    return "\n".join(lines) + "\n"


def _quantized(found: Quantization) -> str:
    activations = f"activations per {found.activations}" if found.activations else "weights alone"
    left_out = f"; left out: {', '.join(found.excluded)}" if found.excluded else ""
    origin = "here, from the weights" if found.origin == "pristine" else "as the checkpoint was"
    return (
        f"{found.scheme} in the blocks' linear layers, weights per {found.weights}, {activations}, "
        f"{origin}{left_out}"
    )


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    weights = "random weights" if manifest.random_weights else "real weights"
    if not manifest.full_finetune and manifest.mode == "full":
        weights += ", the base's own (no fine-tune given)"
    if manifest.full_finetune and any(file.origin == "base" for file in manifest.weights):
        weights += ", trained parameters laid over the base's"
    total = show_bytes(sum(file.bytes for file in manifest.weights))
    used = show_bytes(manifest.weight_bytes)
    files = f"{used} in {counted(len(manifest.weights), 'file')} of {total}"
    facts = [
        ("name", manifest.name),
        ("model", manifest.model),
        *([("expert", f"the {manifest.expert}-noise expert of a pair")] if manifest.expert else []),
        ("mode", _mode(manifest)),
        ("dtype", manifest.dtype),
        *([("quantised", _quantized(manifest.quantization))] if manifest.quantization else []),
        ("backend", manifest.backend),
        *(("prefused", _prefused(one)) for one in manifest.prefuse),
        *_plan_facts(manifest),
        ("weights", f"{files}, {weights}"),
        ("verified", _verified(manifest.verification)),
        *([("keeps", _keeps(found))] if (found := manifest.verification.fidelity) else []),
    ]
    for key, workload in manifest.workloads.items():
        tokens = group_digits(workload.tokens)
        flops = f"{sum(workload.flops.values()) / 1e12:.4g} TFLOP per forward"
        facts.append(("workload", f"{key}: {workload.batch} x {tokens} tokens, {flops}"))
        if workload.context is not None:
            once = f"{sum(workload.context.flops.values()) / 1e12:.4g} TFLOP once per prompt"
            facts.append(("context", f"{key}: {once}"))
    facts += [("input", _spec(spec)) for spec in manifest.data_inputs]
    facts += [("output", _spec(spec)) for spec in manifest.forward.outputs]
    facts += [("adapter", _adapter(adapter)) for adapter in manifest.adapters]
    facts += [
        ("file", f"{file.file}: {show_bytes(file.bytes)}, {file.origin}, {file.storage}")
        for file in manifest.weights
    ]
    facts += [("source", text) for text in show_sources(manifest.sources)]
    tools = ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())
    return [*facts, ("tools", tools or "-")]


def _plan_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for graph in manifest.graphs.values():
        if graph.plan is not None:
            yield "plan", _plan(manifest, graph.plan)


def _plan(manifest: Manifest, plan: PlanFile) -> str:
    refit = {
        "baked": "weights inside",
        "none": "bound to these weights",
        "targets": "the adapter's matrices can be refitted",
        "all": "all weights can be refitted",
    }
    capabilities = ", ".join(plan.compute_capabilities)
    facts = [
        f"{plan.file}: {show_bytes(plan.bytes)}, {manifest.backend} {plan.library}",
        f"built on {plan.gpu or 'no GPU'} for compute capability {capabilities}",
        f"{refit[plan.refit]} ({plan.refit})",
    ]
    choices = {
        f"on {plan.hardware_compatibility} GPUs": plan.hardware_compatibility != "none",
        "runs with later versions": plan.version_compatible,
        "can stream weights": plan.weight_streaming,
        "swaps adapters in place": plan.swap is not None,
        "a build control": plan.control,
    }
    return ", ".join([*facts, *(name for name, on in choices.items() if on)])


def _mode(manifest: Manifest) -> str:
    if manifest.mode == "swappable":
        what = f"swappable, rank up to {manifest.max_rank}"
    elif manifest.rank is not None:
        what = f"{manifest.mode}, rank {manifest.rank}"
    else:
        return manifest.mode
    named = f" ({manifest.target_set})" if manifest.target_set else ""
    return f"{what}, on {len(manifest.targets)} modules{named}"


def _prefused(one: Prefused) -> str:
    return f"{one.name}, strength {one.strength:g}, {one.sha256[:12]}: merged into the base"


def _adapter(adapter: AdapterFile) -> str:
    strength = "" if adapter.strength == 1 else f", strength {adapter.strength:g}"
    return f"{adapter.file}: rank {adapter.rank}{strength}, {show_bytes(adapter.bytes)}"


def _verified(verification: Verification) -> str:
    if verification.method == "none":
        return "no: outputs weren't compared; linked weights weren't read, and may hold NaN"
    facts = [f"by {verification.method}, against diffusers in fp32"]
    if verification.error is not None:
        facts.append(f"relative L2 {verification.error:.2g}")
    if verification.tolerance is not None:
        facts.append(f"tolerance {verification.tolerance:.2g}")
    if verification.reference_error is not None:
        facts.append(f"PyTorch's own error {verification.reference_error:.2g}")
    if verification.emulated_error is not None:
        facts.append(f"the bf16 graph's, emulated, {verification.emulated_error:.2g}")
    if verification.adapter_effect is not None:
        facts.append(f"the adapter's effect {verification.adapter_effect:.2g}")
    if verification.plan_error is not None:
        facts.append(f"the plan's on its GPU {verification.plan_error:.2g}")
    if verification.tokens is not None:
        facts.append(f"at {verification.tokens} tokens")
    if verification.dtype is not None:
        facts.append(f"in {verification.dtype}")
    return ", ".join(facts)


def _keeps(fidelity: Fidelity) -> str:
    shares = ", ".join(map(show_share, fidelity.keeps))
    timesteps = ", ".join(f"{t:g}" for t in fidelity.timesteps)
    files = ", ".join(digest[:12] for digest in fidelity.finetuned)
    return f"{shares} of the effect of the full fine-tune {files}, at timestep {timesteps}"


def _spec(spec: TensorSpec) -> str:
    from wanrt.engine.tensors import show_shape

    bounds = f", {spec.range[0]:g} to {spec.range[1]:g}" if spec.range else ""
    return f"{spec.name}: {spec.dtype} {show_shape(spec.shape)}{bounds}"


def show_sources(sources: Sequence[Source]) -> Iterator[str]:
    """Yield a text per source; several of one folder follow a line that names it."""
    for folder, members in groupby(sources, lambda source: Path(source.path).parent):
        held = list(members)
        cached = hub_file(Path(held[0].path))
        revision = f", revision {cached.revision[:12]}" if cached and cached.revision else ""
        if len(held) == 1:
            name = cached.id if cached else held[0].path
            yield f"{name} {_identify(held[0])}{revision}"
            continue
        yield f"{cached.repo_path(cached.inside.parent) if cached else folder}{revision}:"
        yield from (f"  {Path(source.path).name} {_identify(source)}" for source in held)


def _identify(source: Source) -> str:
    strength = "" if source.strength in (None, 1.0) else f", strength {source.strength:g}"
    scheme = f", {source.scheme}" if source.scheme else ""
    return f"{source.sha256[:12]}{strength}{scheme}"
