"""Check from its manifest whether a plan can run here, before TensorRT loads it."""

from __future__ import annotations

from pathlib import Path

from wanrt.backends.tensorrt import api as trt
from wanrt.backends.tensorrt.cuda import Cuda, Gpu, open_cuda
from wanrt.backends.tensorrt.library import dtype_name, sizes
from wanrt.backends.tensorrt.weights import MISMATCH, REBUILD
from wanrt.engine.tensors import resolve_shape, show_shape
from wanrt.errors import EngineError, UnsupportedError
from wanrt.manifest.plan import PlanFile
from wanrt.manifest.schema import Graph, Manifest

__all__ = ["check_contents", "check_plan"]

AMPERE = (8, 0)
# An engine built with REFIT by TensorRT 11.3 may lose the bias of a matrix product, refitted or
# not (its release notes). They clear REFIT_IDENTICAL alone; REFIT_INDIVIDUAL they don't name.
LOSES_BIAS = "11.3."


def check_plan(manifest: Manifest) -> Cuda:
    """Return CUDA if every plan of an engine can run with this library on this GPU.

    Raises:
        UnsupportedError: the library, its version, the driver or the GPU isn't right.
    """
    assert manifest.backend != "onnxruntime"
    trt.select(manifest.backend)
    cuda = open_cuda()
    version, gpu = trt.version(), cuda.gpu()
    for graph in manifest.graphs.values():
        assert graph.plan is not None
        reason = _find_obstacle(graph.plan, manifest.backend, version, gpu)
        if reason:
            raise UnsupportedError(reason, f"rebuild it: {manifest.rebuild_command}")
    return cuda


def check_contents(folder: Path, manifest: Manifest, graph: Graph, engine: trt.ICudaEngine) -> None:
    """Check that a graph's plan has the inputs, outputs, profiles and weights the manifest says.

    Raises:
        EngineError: it hasn't.
    """
    found = _describe_plan(engine)
    expected = _describe_manifest(manifest, graph)
    for what in dict.fromkeys((*expected, *found)):
        if expected.get(what) != found.get(what):
            raise EngineError(
                f"{folder}: {MISMATCH}: {what} is {found.get(what, 'not there')} in the plan, "
                f"{expected.get(what, 'not there')} in engine.json",
                REBUILD,
            )


def _find_obstacle(plan: PlanFile, backend: str, version: str, gpu: Gpu) -> str | None:
    if plan.library != version:
        newer = _numbers(plan.library) > _numbers(version)
        if newer or not plan.version_compatible:
            return f"built by {backend} {plan.library}, this is {version}"
    free = plan.refit in ("targets", "all")
    if backend == "tensorrt" and free and plan.library.startswith(LOSES_BIAS):
        return (
            f"built by {backend} {plan.library} with refit {plan.refit}, which may lose biases; "
            "another version or refit none may not"
        )
    here = f"this GPU is {gpu.name}, {gpu.capability}"
    if plan.hardware_compatibility == "ampere+":
        return None if _numbers(gpu.capability) >= AMPERE else f"built for 8.0 and newer, {here}"
    one_model = backend == "tensorrt" and plan.hardware_compatibility == "none"
    if one_model and plan.gpu is not None:
        return None if plan.gpu == gpu.name else f"built for {plan.gpu}, {here}"
    if gpu.capability not in plan.compute_capabilities:
        return f"built for compute capability {', '.join(plan.compute_capabilities)}, {here}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _describe_manifest(manifest: Manifest, graph: Graph) -> dict[str, str]:
    plan = graph.plan
    assert plan is not None
    described = {"the number of profiles": str(len(plan.profiles))}
    described["having refittable weights"] = str(bool(plan.weights))
    for spec in graph.inputs:
        described[f"input {spec.name}"] = spec.dtype
    for spec in graph.outputs:
        described[f"output {spec.name}"] = spec.dtype
    for index, name in enumerate(plan.profiles):
        shapes = manifest.workloads[name].shapes
        symbols: dict[str, int] = {}
        for spec in manifest.data_inputs:
            sizes_of = zip(spec.shape, shapes.get(spec.name, ()), strict=False)
            symbols |= {dim: size for dim, size in sizes_of if isinstance(dim, str)}
        for spec in graph.inputs:
            shape = shapes.get(spec.name) or resolve_shape(spec, symbols) or spec.shape
            described[f"{spec.name} in profile {index}"] = show_shape(shape)
    return described


def _describe_plan(engine: trt.ICudaEngine) -> dict[str, str]:
    count = engine.num_optimization_profiles
    described = {"the number of profiles": str(count)}
    described["having refittable weights"] = str(engine.refittable)
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        kind = "input" if is_input else "output"
        described[f"{kind} {name}"] = dtype_name(engine.get_tensor_dtype(name))
        for index in range(count if is_input else 0):
            described[f"{name} in profile {index}"] = _profile_shape(engine, name, index)
    return described


def _profile_shape(engine: trt.ICudaEngine, name: str, profile: int) -> str:
    static = sizes(engine.get_tensor_shape(name))
    if -1 not in static:
        return show_shape(static)
    shapes = [sizes(shape) for shape in engine.get_tensor_profile_shape(name, profile)]
    return " to ".join(dict.fromkeys(show_shape(shape) for shape in shapes))
