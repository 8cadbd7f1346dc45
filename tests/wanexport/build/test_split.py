"""Split engines: one-graph engines' outputs, contexts that outlive forwards but not adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from studies import I2V, OTHER_SIZES, T2V, build

from wanexport.graph.join import fingerprint, join_graphs
from wanexport.graph.split import split_graph
from wanexport.graph.trace import GraphSpec, trace_graph
from wanrt.backends.load import load_engine
from wanrt.bench.loading.jobs import LoadJob
from wanrt.bench.probe import probe_job
from wanrt.engine.engine import Engine
from wanrt.engine.inputs import make_inputs
from wanrt.errors import EngineError
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest
from wanrt.storage.dtypes import Array

TARGETS = ("attn2.to_k", "attn2.to_q")


def inputs_of(folder: Path, workload: str | None = None, seed: int = 1) -> dict[str, Array]:
    manifest = read_manifest(folder)
    name = workload or next(iter(manifest.workloads))
    return make_inputs(manifest, manifest.workloads[name], seed)


def distance(found: Array, expected: Array) -> float:
    """Return the relative L2 distance."""
    wide = expected.astype("f4")
    return float(np.linalg.norm(found.astype("f4") - wide) / np.linalg.norm(wide))


def prompt_of(given: dict[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in given.items() if name.startswith("encoder")}


def latents_of(given: dict[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in given.items() if not name.startswith("encoder")}


@pytest.fixture(scope="module")
def swappable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T2V engine with adapter inputs at every layer, and one adapter of rank 2 on all of them."""
    out = tmp_path_factory.mktemp("split")
    options: dict[str, Any] = {"modes": ("swappable",), "ranks": (2,), "max_rank": 4}
    return build(out, T2V, verify=False, split=True, targets=("all",), **options)[0].path


@pytest.mark.parametrize(
    ("dtype", "dynamic"),
    [("fp32", False), ("fp32", True), ("fp16", True)],
    ids=["fp32", "fp32-dynamic", "fp16-dynamic"],
)
def test_every_mode_is_the_one_graph_engine(tmp_path: Path, dtype: str, dynamic: bool) -> None:
    """Bit by bit in fp32. In fp16 ONNX Runtime's CPU computes in fp32 between its own casts.

    So K and V aren't rounded to fp16 on their way to an attention of one graph.
    """
    most = 0.0 if dtype == "fp32" else 1e-3
    options: dict[str, Any] = {"ranks": (2,), "dtype": dtype, "dynamic": dynamic, "verify": False}
    one = build(tmp_path / "one", I2V, **options)
    two = build(tmp_path / "two", I2V, split=True, **options)
    for whole, split in zip(one, two, strict=True):
        assert split.path.name == f"{whole.path.name}-split"
        manifest = read_manifest(split.path)
        assert manifest.compared_by["layout"] == "split"
        sizes = list(manifest.workloads)
        assert len(sizes) == 1 + dynamic * len(OTHER_SIZES)
        with load_engine(whole.path) as engine, load_engine(split.path) as other:
            for shipped in [None, *manifest.adapters]:
                if shipped is not None:
                    engine.swap(whole.path / shipped.file)
                    other.swap(split.path / shipped.file)
                for size in sizes:
                    given = inputs_of(split.path, size)
                    expected = engine.forward(**given)["sample"]
                    found = other.forward(**given)["sample"]
                    assert distance(found, expected) <= most
                    context = other.prepare(**prompt_of(given))
                    again = other.forward(context=context, **latents_of(given))
                    assert (again["sample"] == found).all()


def test_a_split_engine_is_verified_and_shares_no_weight(tmp_path: Path) -> None:
    whole, split = (
        build(tmp_path, T2V, modes=("full",), split=split, dtype="bf16")[0].path
        for split in (False, True)
    )
    one, two = read_manifest(whole), read_manifest(split)
    assert two.verification.error == one.verification.error
    assert set(two.graphs) == {"context", "denoise"}
    assert two.weight_bytes == one.weight_bytes
    assert all(graph.emulated is not None for graph in two.graphs.values())
    (before,), (after,) = one.workloads.values(), two.workloads.values()
    assert after.context is not None
    assert sum(after.flops.values()) + sum(after.context.flops.values()) == sum(
        before.flops.values()
    )
    given = inputs_of(split)
    with load_engine(whole, emulated=True) as engine, load_engine(split, emulated=True) as other:
        assert (engine.forward(**given)["sample"] == other.forward(**given)["sample"]).all()


def test_two_contexts_alternate(swappable: Path) -> None:
    given, others = inputs_of(swappable), inputs_of(swappable, seed=2)
    latents = latents_of(given)
    with load_engine(swappable) as engine:
        expected = [
            engine.forward(**latents, **prompt_of(one))["sample"] for one in (given, others)
        ]
        contexts = [engine.prepare(**prompt_of(one)) for one in (given, others)]
        for _ in range(2):
            for context, value in zip(contexts, expected, strict=True):
                assert (engine.forward(context=context, **latents)["sample"] == value).all()
        assert contexts[0].nbytes == 2 * T2V.num_layers * 512 * 128 * 4


def run(engine: Engine, given: dict[str, Array], context: object) -> Array:
    return engine.forward(context=context, **latents_of(given))["sample"]


def test_adapters_and_strengths_make_contexts_stale(swappable: Path) -> None:
    (shipped,) = read_manifest(swappable).adapters
    adapter, given = swappable / shipped.file, inputs_of(swappable)
    with load_engine(swappable) as engine:
        base = engine.prepare(**prompt_of(given))
        sample = run(engine, given, base)
        engine.swap(adapter)
        with pytest.raises(EngineError, match="context is stale"):
            run(engine, given, base)
        loaded = engine.prepare(**prompt_of(given))
        changed = run(engine, given, loaded)
        assert not (changed == sample).all()
        engine.swap([(adapter, 1.0)])  # the same again
        assert (run(engine, given, loaded) == changed).all()
        engine.set_strengths([0.5])
        with pytest.raises(EngineError, match="context is stale"):
            run(engine, given, loaded)
        engine.set_strengths([0])
        fresh = engine.prepare(**prompt_of(given))
        assert (run(engine, given, fresh) == sample).all()
        engine.swap(None)
        assert (run(engine, given, fresh) == sample).all()  # at strength 0 nothing has changed


def test_an_adapter_of_other_layers_leaves_contexts_alone(tmp_path: Path) -> None:
    engine_path = build(
        tmp_path, T2V, modes=("swappable",), ranks=(2,), verify=False, split=True,
        targets=("self-attention",),
    )[0].path  # fmt: skip
    manifest = read_manifest(engine_path)
    assert not any(spec.role == "strengths" for spec in manifest.graphs["context"].inputs)
    (shipped,) = manifest.adapters
    given = inputs_of(engine_path)
    with load_engine(engine_path) as engine:
        context = engine.prepare(**prompt_of(given))
        before = run(engine, given, context)
        engine.swap(engine_path / shipped.file)
        assert not (run(engine, given, context) == before).all()


def test_a_bench_sees_what_a_prompt_takes(swappable: Path) -> None:
    opened = open_folder(swappable)
    (name,) = opened.manifest.workloads
    probe = probe_job(LoadJob(opened, name), None)
    context = opened.manifest.workloads[name].context
    assert context is not None
    assert probe.context_bytes == sum(context.bytes.values())
    assert probe.context_s is not None
    assert probe.context_s > 0


def test_a_context_graph_can_be_released(swappable: Path) -> None:
    given = inputs_of(swappable)
    (shipped,) = read_manifest(swappable).adapters
    with load_engine(swappable, keep_context=False) as engine, load_engine(swappable) as other:
        for held in (engine, other):
            held.swap(swappable / shipped.file)
        for _ in range(2):
            expected = other.forward(**given)["sample"]
            assert (engine.forward(**given)["sample"] == expected).all()


def test_wrong_use_is_refused(swappable: Path, tmp_path: Path) -> None:
    given = inputs_of(swappable)
    whole = build(tmp_path, T2V, modes=("full",), verify=False)[0].path
    with load_engine(swappable) as engine, load_engine(swappable) as other:
        context = engine.prepare(**prompt_of(given))
        for why, call in (
            ("prepared by another engine", lambda: run(other, given, context)),
            ("context is a dict", lambda: run(engine, given, {})),
            ("there is no input encoder_hidden_states",
             lambda: engine.forward(context=context, **given)),
            ("encoder_hidden_states is missing", lambda: engine.forward(**latents_of(given))),
            ("encoder_hidden_states is missing", lambda: engine.prepare()),
            ("there is no input hidden_states", lambda: engine.prepare(**given)),
            ("has shape", lambda: engine.prepare(encoder_hidden_states=np.zeros((1, 2), "f4"))),
        ):  # fmt: skip
            with pytest.raises(EngineError, match=why):
                call()
    with load_engine(whole) as engine:
        for call in (
            lambda: engine.prepare(**prompt_of(given)),
            lambda: engine.forward(context=context, **latents_of(given)),
        ):
            with pytest.raises(EngineError, match="one graph, so there is no context"):
                call()


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_joined_graphs_are_the_forward(dynamic: bool) -> None:
    spec = GraphSpec(I2V, OTHER_SIZES[1], "fp32", {"blocks.0.attn2.to_k": 4}, {}, dynamic)
    graph = trace_graph(spec)
    split = split_graph(graph)
    joined = join_graphs(split.context, split.denoise)
    assert fingerprint(joined) == fingerprint(graph)
    names = [value.name for value in split.context.graph.outputs]
    parts = ("k", "v", "added_k", "added_v")
    assert names == [f"blocks.{n}.attn2.{part}" for n in range(2) for part in parts]
    node = next(node for node in split.denoise.graph if node.op_type == "Gemm")
    node.attributes["transB"] = ir.AttrInt64("transB", 0)
    assert fingerprint(join_graphs(split.context, split.denoise)) != fingerprint(graph)
