"""libwanrt beside Python's wanrt on the same engines.

    make cpp && python benchmarks/cpp_host.py [--rounds 30] [--scratch DIR]

Three claims. What the host adds to a forward of the demo's `full` and `swappable` engines: the time
of binding all inputs each time and running a forward, less the backend's own. What opening the fp32
T2V-1.3B engine takes with its weights left in the files' pages (5.7 GB of random weights go to DIR
and away again). What reading and checking a 14B engine folder takes: the demo's swappable engine,
its manifest grown to 480 adapter inputs and its weights to I2V-14B's tensors in sparse files with
true headers. Writes `benchmarks/results/cpp_host.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import struct
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.checkpoint.random_weights import checkpoint_specs
from wanexport.model.config import load_config
from wanexport.storage.tensor_file import StoredTensor
from wanrt.backends.load import load_engine
from wanrt.cli.run import save_tensors
from wanrt.engine.engine import Engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Mode
from wanrt.terminal.progress import Reporter

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SHARD_BYTES = 5 << 30
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure libwanrt beside Python's wanrt.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--scratch", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        scratch = Path(name)
        program = _compile(scratch)
        results: dict[str, Any] = {"machine": _machine(), "rounds": arguments.rounds}
        demo = _build(scratch / "demo", "wan2.1-i2v-demo", ("full", "swappable"))
        for mode, folder in demo.items():
            results[f"overhead {mode}"] = _overhead(program, folder, scratch, arguments.rounds)
        large = _grow(demo["swappable"], scratch / "i2v-14b")
        results["manifest 14B"] = _repeat(program, "manifest", large)
        t2v = _build(scratch / "t2v", "wan2.1-t2v-1.3b-480p", ("full",))["full"]
        weight_bytes = read_manifest(t2v).weight_bytes
        results["open T2V-1.3B"] = _repeat(program, "open", t2v) | {"weight_bytes": weight_bytes}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpp_host.json").write_text(json.dumps(results, indent=1) + "\n")
    text = _render(results)
    (RESULTS / "cpp_host.md").write_text(text)
    print(text)


def _compile(scratch: Path) -> Path:
    """Install the library that `make cpp` built, and compile a host against it."""
    prefix = scratch / "wanrt"
    build = ROOT / "build" / "cpp" / "plain"
    subprocess.run(
        ["cmake", "--install", build, "--prefix", prefix], check=True, stdout=subprocess.DEVNULL
    )
    query = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "wanrt"],
        env=os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    program = scratch / "host"
    source = Path(__file__).with_suffix(".cpp")
    flags = ["-std=c++17", "-O2", f"-Wl,-rpath,{prefix / 'lib'}"]
    subprocess.run(["c++", *flags, source, "-o", program, *query], check=True)
    return program


def _build(out: Path, name: str, modes: tuple[Mode, ...]) -> dict[str, Path]:
    config = load_config(name).model_copy(update={"dtype": "fp32"})
    ranks = () if modes == ("full",) else (32,)
    request = BuildRequest(config=config, modes=modes, ranks=ranks, out=out, verify=False)
    built = build_engines(request, Reporter())
    return dict(zip(modes, (one.path for one in built), strict=True))


def _overhead(program: Path, folder: Path, scratch: Path, rounds: int) -> dict[str, Row]:
    """Return what each host adds to a forward; one forward of each in turn."""
    manifest = read_manifest(folder)
    (workload,) = manifest.workloads.values()
    inputs = make_inputs(manifest, workload, seed=0)
    save_tensors(scratch / "inputs.safetensors", inputs, {})
    command = list(map(str, (program, "serve", folder, scratch / "inputs.safetensors")))
    samples: dict[str, list[tuple[float, float, float]]] = {"C++": [], "Python": []}
    with (
        load_engine(folder) as engine,
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as cpp,
    ):
        assert cpp.stdin and cpp.stdout
        for _ in range(rounds + 2):
            samples["Python"].append(_python_forward(engine, inputs))
            cpp.stdin.write("\n")
            both, call, backend = map(float, cpp.stdout.readline().split())
            samples["C++"].append((both, call, backend))
        cpp.stdin.close()
    return {host: _summarize(rows[2:]) for host, rows in samples.items()}


def _python_forward(engine: Engine, inputs: dict[str, np.ndarray]) -> tuple[float, float, float]:
    start = time.perf_counter()
    engine.bind(**inputs)
    bound = time.perf_counter()
    backend = engine.time_forward()
    end = time.perf_counter()
    return end - start, end - bound, backend


def _summarize(rows: list[tuple[float, float, float]]) -> Row:
    added = [(both - backend) * 1e3 for both, _, backend in rows]
    call = [(call - backend) * 1e3 for _, call, backend in rows]
    forward = statistics.median(backend for _, _, backend in rows) * 1e3
    return {
        "forward_ms": forward,
        "call_ms": statistics.median(call),
        "bind_and_call_ms": statistics.median(added),
        "bind_and_call_worst_ms": max(added),
        "share": statistics.median(added) / forward,
    }


def _grow(demo: Path, folder: Path) -> Path:
    """Write a folder with the demo's graph, and I2V-14B's adapter inputs and weights."""
    config = load_config("wan2.1-i2v-14b-480p")
    manifest = json.loads((demo / "engine.json").read_text())
    manifest["adapters"] = []
    forward = manifest["graphs"]["forward"]
    adapted = [spec for spec in forward["inputs"] if spec.get("role", "data") != "data"]
    block = [spec for spec in adapted if spec["name"].startswith("blocks.0.")]
    forward["inputs"] = [spec for spec in forward["inputs"] if spec not in adapted]
    for layer in range(config.architecture.num_layers):
        for spec in block:
            names = {
                key: spec[key].replace("blocks.0.", f"blocks.{layer}.")
                for key in ("name", "module")
            }
            forward["inputs"].append(spec | names)
    (folder / "weights").mkdir(parents=True)
    os.link(demo / forward["file"], folder / forward["file"])
    manifest["weights"] = [
        _write_sparse(folder, i, shard)
        for i, shard in enumerate(_shards(checkpoint_specs(config.architecture, "bf16")))
    ]
    (folder / "engine.json").write_text(json.dumps(manifest))
    return folder


def _shards(specs: list[StoredTensor]) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    for spec in specs:
        if sum(one.nbytes for one in shards[-1]) + spec.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(spec)
    return shards


def _write_sparse(folder: Path, index: int, specs: list[StoredTensor]) -> dict[str, object]:
    """Write a safetensors file whose header is true and whose data is a hole."""
    header, end = {}, 0
    for spec in specs:
        offsets = [end, end + spec.nbytes]
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": offsets}
        end += spec.nbytes
    text = json.dumps(header).encode()
    path = folder / "weights" / f"{index}.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)
    stat = path.stat()
    return {
        "file": f"weights/{index}.safetensors", "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns,
        "sha256": "0" * 64, "origin": "base", "storage": "own",
    }  # fmt: skip


def _repeat(program: Path, command: str, folder: Path) -> Row:
    """Return the first and the median cost of five processes."""
    costs = []
    for _ in range(5):
        done = subprocess.run(
            [program, command, folder], capture_output=True, text=True, check=True
        )
        seconds, anonymous = done.stdout.split()
        costs.append((float(seconds), int(anonymous)))
    return {
        "first_s": costs[0][0],
        "median_s": statistics.median(seconds for seconds, _ in costs),
        "anonymous_bytes": max(anonymous for _, anonymous in costs),
    }


def _machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True)
    return {
        "processor": next(x for x in lines if "model name" in x).split(": ")[1],
        "cores": str(os.cpu_count()),
        "onnxruntime": metadata.version("onnxruntime"),
        "compiler": compiler.stdout.splitlines()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
        "load": f"{os.getloadavg()[1]:.1f}",
    }


def _render(results: dict[str, Any]) -> str:
    machine = results["machine"]
    opened, checked = results["open T2V-1.3B"], results["manifest 14B"]
    lines = [
        "# libwanrt beside Python's wanrt",
        "",
        f"`python benchmarks/cpp_host.py`; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}; onnxruntime {machine['onnxruntime']}, {machine['compiler']}, "
        f"Python {machine['python']}; random weights. Load average before it: {machine['load']}.",
        "",
        f"What a host adds to the backend's time of one forward of the demo, median of "
        f"{results['rounds']} in turn:",
        "",
        "| engine | host | backend | the forward's call | with binding each time | worst | share |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for mode in ("full", "swappable"):
        for host, row in results[f"overhead {mode}"].items():
            lines.append(
                f"| {mode} | {host} | {row['forward_ms']:.1f} ms | {row['call_ms']:.4f} ms "
                f"| {row['bind_and_call_ms']:.4f} ms | {row['bind_and_call_worst_ms']:.4f} ms "
                f"| {row['share']:.4%} |"
            )
    lines += [
        "",
        "| | first | median of 5 | anonymous memory |",
        "|---|--:|--:|--:|",
        f"| open T2V-1.3B, fp32, {opened['weight_bytes'] / 1e9:.2f} GB, mapped "
        f"| {opened['first_s']:.2f} s | {opened['median_s']:.2f} s "
        f"| {opened['anonymous_bytes'] / 1e6:.0f} MB |",
        "| read and check a 14B engine folder, weights unread "
        f"| {checked['first_s']:.4f} s | {checked['median_s']:.4f} s "
        f"| {checked['anonymous_bytes'] / 1e6:.1f} MB |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
