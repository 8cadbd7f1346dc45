"""From an ONNX file to a TensorRT network and the settings of its build.

Runs in the builder's process (`trt_worker`) with TensorRT 10.16, 11 or TensorRT-RTX; what differs
between them is looked up by name, never by number: enumerations moved from 10 to 11.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from wanexport.errors import BuildError
from wanexport.tensorrt.protocol import BuilderJob
from wanrt.backends.tensorrt import api as trt
from wanrt.backends.tensorrt.library import trt_dtype
from wanrt.manifest.fields import Dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_network", "configure", "count_layers", "mark_refittable", "parse_network"]

HARDWARE = {"ampere+": "AMPERE_PLUS", "samecomputecapability": "SAME_COMPUTE_CAPABILITY"}


def parse_network(
    builder: trt.Builder, logger: trt.ILogger, model: Path
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    """Parse a model, its weights mapped; the parser holds them and must outlive the build.

    Raises:
        BuildError: TensorRT refuses a node.
    """
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):  # 11 knows no other kind
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        problem = parser.get_error(0) if parser.num_errors else None
        told = f"{problem.node_name()}: {problem.desc()}" if problem else "no reason given"
        raise BuildError(f"TensorRT can't parse {model.name}: {told}", "this is a bug; report it")
    return network, parser


def mark_refittable(network: trt.INetworkDefinition, names: Sequence[str]) -> None:
    """Free initializers for a refit one by one.

    Raises:
        BuildError: the network has no weights of that name.
    """
    for name in names:
        if not network.mark_weights_refittable(name):
            raise BuildError(f"TensorRT knows no weights {name}", "this is a bug; report it")


def check_network(network: trt.INetworkDefinition, job: BuilderJob) -> None:
    """Check what TensorRT made of the graph: dtypes of inputs and outputs, attention layers.

    Raises:
        BuildError: it isn't what the manifest will say.
    """
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    found = {tensor.name: tensor.dtype for tensor in tensors}
    expected = {name: trt_dtype(dtype) for name, dtype in job.dtypes.items()}
    if found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()), key=str)[0]
        raise BuildError(f"TensorRT reads {odd[0]} as {odd[1]}", "this is a bug; report it")
    counts = count_layers(network).items()
    attentions = sum(count for name, count in counts if name.startswith("ATTENTION_INPUT "))
    if attentions != job.attentions:
        raise BuildError(
            f"TensorRT sees {attentions} attention layers instead of {job.attentions}",
            "this is a bug; report it",
        )


def count_layers(network: trt.INetworkDefinition) -> dict[str, int]:
    """Return how many layers of each type and dtype a network has, as `NORMALIZATION fp32`."""
    names = {trt_dtype(name): name for name in get_args(Dtype)}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dtypes = [layer.get_output(0).dtype for layer in layers]
    return dict(
        Counter(
            f"{layer.type.name} {names.get(dtype, dtype.name.lower())}"
            for layer, dtype in zip(layers, dtypes, strict=True)
        ).most_common()
    )


def configure(
    builder: trt.Builder, network: trt.INetworkDefinition, job: BuilderJob
) -> trt.IBuilderConfig:
    """Return the settings of a build.

    Raises:
        BuildError: the library can't build what the job asks for.
    """
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # what computes in fp32 is verified as fp32
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in _flags(job):
        config.set_flag(flag)
    if job.optimization_level is not None:
        config.builder_optimization_level = job.optimization_level
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    if job.aux_streams is not None:
        config.max_aux_streams = job.aux_streams
    if job.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[job.hardware_compatibility])
        config.hardware_compatibility_level = level
    _set_capabilities(config, job.capabilities)
    for shapes in job.profiles:
        _add_profile(builder, config, network, shapes)
    return config


def _flags(job: BuilderJob) -> list[trt.BuilderFlag]:
    flags = []
    if job.refit != "baked":
        flags.append(trt.BuilderFlag.STRIP_PLAN)
    if job.refit == "none":
        flags.append(trt.BuilderFlag.REFIT_IDENTICAL)
    if job.refit in ("targets", "all"):
        flags.append(trt.BuilderFlag.REFIT_INDIVIDUAL)
    if job.version_compatible:
        flags.append(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job.weight_streaming:
        flags.append(trt.BuilderFlag.WEIGHT_STREAMING)
    return flags


def _set_capabilities(config: trt.IBuilderConfig, capabilities: Sequence[str]) -> None:
    """Say which GPUs TensorRT-RTX builds for; TensorRT has no such choice."""
    if not capabilities:
        return
    config.num_compute_capabilities = len(capabilities)  # type: ignore[attr-defined,unused-ignore]
    for i, capability in enumerate(capabilities):
        target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")  # type: ignore[attr-defined,unused-ignore]
        config.set_compute_capability(target, i)  # type: ignore[attr-defined,unused-ignore]


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Add one workload's profile: minimum, optimum and maximum are its shapes."""
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"TensorRT refuses the profile {dict(shapes)} of {network.name}",
            "this is a bug; report it",
        )
