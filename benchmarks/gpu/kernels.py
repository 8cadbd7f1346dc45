"""Where the time of a forward goes, kernel by kernel, and whether any node runs on the CPU."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from wanrt.bench.loading.jobs import LoadJob, load_job
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest

from .record import Step
from .settings import Settings

FORWARDS = 3
KINDS = (
    ("attention", r"flash|fmha|sdpa|attention"),
    ("gemm", r"gemm|nvjet|cutlass|xmma|wgmma"),
    ("copy", r"memcpy|memset"),
    ("norm", r"norm"),
)
"""The first whose pattern a kernel's name matches; the rest is elementwise."""


def profile_engine(settings: Settings, path: Path, rival: str | None = None) -> Step:
    """Profile forwards of an engine, or of torch with its weights, by CUPTI through torch."""
    engine = open_folder(path)
    (workload,) = engine.manifest.workloads
    job = LoadJob(engine, workload, device=settings.device, rival=rival)  # type: ignore[arg-type]
    on_gpu = settings.device == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    runner = load_job(job)
    try:
        plain = statistics.median([runner.time_forward() for _ in range(2 + FORWARDS)][2:])
        with profile(activities=activities) as profiler:
            for _ in range(FORWARDS):
                runner.time_forward()
    finally:
        runner.close()
        if on_gpu:
            torch.cuda.empty_cache()
    (shapes,) = engine.manifest.workloads.values()
    work: Step = {"tokens": shapes.tokens, "flops": sum(shapes.flops.values())}
    return {"forward_s": plain, **work, **_kernels(profiler, on_gpu)}


def placement(settings: Settings, path: Path) -> Step:
    """Return which operators ONNX Runtime gave to which provider, by its own profile."""
    from wanrt.backends.onnxruntime.session import open_session, profiling, to_ortvalue
    from wanrt.engine.inputs import make_inputs

    manifest = read_manifest(path)
    (workload,) = manifest.workloads.values()
    options = profiling(settings.work / "placement")
    model = path / manifest.forward.file
    session = open_session(model, settings.device, None, False, True, options)
    binding = session.io_binding()
    for name, value in make_inputs(manifest, workload, seed=0).items():
        binding.bind_ortvalue_input(name, to_ortvalue(name, value))
    for spec in manifest.forward.outputs:
        binding.bind_output(spec.name, settings.device)
    session.run_with_iobinding(binding)
    file = Path(session.end_profiling())
    events = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    nodes = [event["args"] for event in events if event.get("cat") == "Node"]
    placed = Counter(f"{args['provider']} {args['op_name']}" for args in nodes
                     if args.get("provider") and args.get("op_name"))  # fmt: skip
    return {"nodes": dict(sorted(placed.items()))}


def _kernels(profiler: profile, on_gpu: bool) -> Step:
    rows = []
    for event in profiler.key_averages():
        total = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if total:
            kind = next((k for k, p in KINDS if re.search(p, event.key, re.IGNORECASE)), "other")
            rows.append((total / 1e6 / FORWARDS, event.count / FORWARDS, kind, event.key))
    by_kind: dict[str, float] = {}
    for seconds, _, kind, _ in rows:
        by_kind[kind] = by_kind.get(kind, 0.0) + seconds
    largest = [
        {"s": seconds, "count": count, "kind": kind, "name": name[:200]}
        for seconds, count, kind, name in sorted(rows, reverse=True)[:40]
    ]
    return {"seconds_by_kind": by_kind, "kernels": largest}
