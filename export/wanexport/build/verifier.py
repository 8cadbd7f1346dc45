"""Compare the engines of a request with diffusers' model: their graphs on a CPU, plans on a GPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from wanexport.build.contents import list_parameters, specify_graph
from wanexport.build.sources import AdapterSet
from wanexport.build.targets import Target
from wanexport.graph import passes
from wanexport.graph.cards import cut_for_cards
from wanexport.graph.swappable import STRENGTHS, make_swappable
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.tensor_file import TensorRef, open_safetensors
from wanexport.verify.compare import Expected, Subject, verify_engine
from wanexport.verify.fidelity import Effect, inputs_at, timesteps_of, timesteps_within
from wanexport.verify.plan import Stacked, verify_plan
from wanexport.verify.reference_model import ReadParameter, run_reference
from wanexport.verify.segments import count_bytes
from wanexport.verify.twin import small_spec, twin_inputs, twin_spec
from wanexport.weights.parameters import EngineParameters
from wanexport.weights.store import WeightStore
from wanrt.manifest.origin import Verification
from wanrt.manifest.schema import Expert, Manifest
from wanrt.terminal.progress import Reporter

__all__ = ["Comparer"]

Inputs = dict[str, Tensor]
ROUNDED = ("fp16", "bf16")  # what torch computes in on a CPU, to say what the dtype costs


@dataclass
class Comparer:
    """Compares engines one after the other; each reference is run once.

    Args:
        reporter: receives progress.
    """

    reporter: Reporter
    samples: dict[str, list[Tensor]] = field(default_factory=dict)
    effects: dict[Expert | None, Effect | None] = field(default_factory=dict)
    full: Verification | None = None

    def compare_graph(
        self,
        target: Target,
        spec: GraphSpec,
        model: ir.Model,
        store: WeightStore,
        parameters: Sequence[EngineParameters],
    ) -> Verification:
        """Compare graph and weights with diffusers' model, with every adapter that ships.

        Returns:
            The worst of the comparisons; a small adapter's effect.

        Raises:
            VerificationError: the error exceeds what the dtype allows.
        """
        if target.control and self.full is not None:
            return self.full  # the same graph and weights; only the target is another
        with self.reporter.work(f"{target.name}: tracing at {twin_spec(spec).size.tokens} tokens"):
            twin = _trace(target, twin_spec(spec))
            small = _trace(target, small_spec(spec)) if spec.dtype == "bf16" else None
            plain = None
            if target.quantized:
                plain = _trace(replace(target, quantized=()), twin_spec(spec))
        inputs = _inputs(target, spec)
        subject = Subject(
            store.folder, spec, model, twin, small, store.bound, inputs, plain, target.form
        )
        total = sum(
            count_bytes(graph, store.bound) for graph in (twin, small, plain) if graph is not None
        )
        found = []
        for adapters, of_engine in zip(target.carried, parameters, strict=True):
            expected = self._expect(target, spec, adapters, of_engine, ROUNDED)
            values = {}
            if target.max_rank is not None:
                assert adapters is not None
                values = _fill_slots(store.folder, target, adapters, of_engine)
            with self.reporter.bytes(f"{target.name}: verifying", total) as piece:
                found.append(verify_engine(subject, values, expected, piece.advance))
        worst = _summarize(found)
        if target.mode == "full":
            self.full = worst
        return worst

    def compare_plan(
        self,
        target: Target,
        spec: GraphSpec,
        folder: Path,
        manifest: Manifest,
        parameters: Sequence[EngineParameters],
    ) -> float | None:
        """Run the target on the GPU it was built on; where a reference can take its size, compare.

        Raises:
            VerificationError: its outputs are all zero, not finite, or too far off.
        """
        expected: list[tuple[Stacked, Expected]] = []
        if twin_spec(spec).size == spec.size and spec.dtype in ROUNDED:
            for adapters, of_engine in zip(target.carried, parameters, strict=True):
                outputs = self._expect(target, spec, adapters, of_engine, ROUNDED)
                expected.append((_stack(folder, target, adapters), outputs))
        with self.reporter.work(f"{target.name}: running its target"):
            return verify_plan(folder, manifest, _inputs(target, spec)[0], expected)

    def _expect(
        self,
        target: Target,
        spec: GraphSpec,
        adapters: AdapterSet | None,
        of_engine: EngineParameters,
        rounded_in: Collection[str],
    ) -> Expected:
        """Run the reference on the twin's inputs, or recall what it said for an earlier engine.

        It is run in the engine's dtype too, if that is one of `rounded_in`.
        """
        inputs = _inputs(target, spec)
        effect = self._find_effect(target, spec, inputs)  # first: it asks with all inputs

        def run(key: str, read: ReadParameter, dtype: str = "fp32") -> Tensor:
            key = f"{key} {dtype}"
            return self._run(key, target, spec, of_engine.refs, read, inputs[:1], dtype)[0]

        name = _name_weights(target, adapters)
        stored = ", quantised" if of_engine.quantized else ""
        key, pristine = f"{name}{stored}", replace(of_engine, quantized=frozenset())
        return Expected(
            run(key, of_engine.effective),
            run(f"base{stored}", of_engine.base) if adapters is not None else None,
            run(key, of_engine.effective, spec.dtype) if spec.dtype in rounded_in else None,
            run(name, pristine.effective) if of_engine.quantized else None,
            effect,
        )

    def _find_effect(
        self, target: Target, spec: GraphSpec, inputs: Sequence[Inputs]
    ) -> Effect | None:
        """Run the base and the full fine-tune beside a target, in fp32; None if they are alike."""
        if target.span is None:
            return None
        if target.expert not in self.effects:
            outputs = []
            for weights in target.span:
                plain = replace(
                    target, mode="full", weights=weights, adapters=(), ranks={}, quantized=()
                )
                (held,) = list_parameters(plain, specify_graph(plain))
                key = f"{_name_weights(plain, None)} fp32"
                outputs.append(self._run(key, target, spec, held.refs, held.effective, inputs))
            base, tuned = outputs
            files = tuple(digest for _, digest in target.span[1].files)
            effect = Effect(tuned, base, timesteps_of(inputs), files)
            if not effect.exists:
                self.reporter.log("the full fine-tune computes what the base does: nothing to keep")
            self.effects[target.expert] = effect if effect.exists else None
        return self.effects[target.expert]

    def _run(
        self,
        key: str,
        target: Target,
        spec: GraphSpec,
        refs: Mapping[str, TensorRef],
        read: ReadParameter,
        inputs: Sequence[Inputs],
        dtype: str = "fp32",
    ) -> list[Tensor]:
        """Run the reference with all inputs at once, or recall what it said."""
        key = " ".join(filter(None, (target.expert, key)))
        if key not in self.samples:
            total = sum(ref.nbytes for ref in refs.values())
            with self.reporter.bytes(f"reference, {key}", total) as piece:

                def read_and_tell(name: str) -> Tensor:
                    value = read(name)
                    piece.advance(refs[name].nbytes)
                    return value

                together = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
                found = run_reference(spec.arch, read_and_tell, together, torch_dtype(dtype))
            self.samples[key] = list(found.chunk(len(inputs)))
        return self.samples[key]


def _inputs(target: Target, spec: GraphSpec) -> list[Inputs]:
    """Return what a target is asked: once, or at the timesteps that its fidelity takes."""
    if target.span is None:
        return [twin_inputs(spec)]
    experts = target.config.experts
    border = 1000 * experts.boundary if experts and target.expert else 0.0
    low, high = (0.0, border) if target.expert == "low" else (border, 1000.0)
    return inputs_at(spec, timesteps_within(low, high))


def _name_weights(target: Target, adapters: AdapterSet | None) -> str:
    """Name the weights an engine computes with; separate and swappable engines share them."""
    if adapters is None:
        return "base" if target.weights.origin == "base" else "full fine-tune"
    kind = "merged" if target.mode == "merged" else "unmerged"
    return f"{kind} {adapters.label}"


def _trace(target: Target, spec: GraphSpec) -> ir.Model:
    """Trace a twin and lower it like the engine's graph."""
    dtype = target.config.dtype
    graph = passes.lower_for(
        trace_graph(spec), target.backend, dtype, target.joined, target.quantized, target.form
    )
    if target.max_rank is not None:
        make_swappable(graph, target.branch_names, target.max_rank, target.backend, dtype)
    if target.cards > 1:
        cut_for_cards(graph, target.cards)
    return graph


def _summarize(found: Sequence[Verification]) -> Verification:
    """Return the worst errors, the smallest effect, and what each of an engine's adapters keeps."""
    worst = max(found, key=lambda one: one.error or 0.0)
    rounded = max(found, key=lambda one: one.emulated_error or 0.0)
    effects = [one.adapter_effect for one in found if one.adapter_effect is not None]
    changes: dict[str, object] = {"adapter_effect": min(effects, default=None)}
    kept = [one.fidelity for one in found if one.fidelity is not None]
    if kept:
        changes["fidelity"] = kept[0].model_copy(
            update={"keeps": tuple(keeps for one in kept for keeps in one.keeps)}
        )
    if rounded.emulated_error is not None:
        changes["emulated_error"] = rounded.emulated_error
        changes["reference_error"] = rounded.reference_error
    return worst.model_copy(update=changes)


def _stack(folder: Path, target: Target, adapters: AdapterSet | None) -> Stacked:
    """Return what a swappable engine swaps in to compute with adapters."""
    if target.mode != "swappable" or adapters is None:
        return ()
    return tuple((folder / file, adapter.strength) for file, adapter in adapters.files)


def _fill_slots(
    folder: Path, target: Target, adapters: AdapterSet, of_engine: EngineParameters
) -> dict[str, Tensor]:
    """Return values for a swappable engine's inputs as the runtimes make them from its files."""
    assert target.max_rank is not None
    values = {STRENGTHS: torch.zeros(target.max_rank)}
    for spec in chain.from_iterable(of_engine.branch_specs(target.ranks)):
        values[spec.name] = torch.zeros(spec.shape, dtype=torch_dtype(spec.dtype))
    start = 0
    for file, adapter in adapters.files:
        values[STRENGTHS][start : start + adapter.max_rank] = adapter.strength
        for name, ref in open_safetensors(folder / file).tensors.items():
            part = ref.read()
            by_slot = values[name] if name.endswith(".lora_A") else values[name].T
            rows = part if name.endswith(".lora_A") else part.T
            by_slot[start : start + len(rows)] = rows
        start += adapter.max_rank
    return values
