"""Sound and broken engine folders: one set, which Python's reader and C++'s are held to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyengines import write_manifest, write_over

from wanrt.storage.regular import JSON_BYTES

Break = Callable[[Path, dict[str, Any]], object]


def _edit(change: Callable[[dict[str, Any]], object]) -> Break:
    def apply(folder: Path, raw: dict[str, Any]) -> None:
        change(raw)
        write_manifest(folder, raw)

    return apply


def _text(text: str | bytes) -> Break:
    def apply(folder: Path, raw: dict[str, Any]) -> None:
        del raw
        data = text if isinstance(text, bytes) else text.encode()
        (folder / "engine.json").write_bytes(data)

    return apply


def _replace(old: str, new: str) -> Break:
    def apply(folder: Path, raw: dict[str, Any]) -> None:
        (folder / "engine.json").write_text(json.dumps(raw).replace(old, new, 1))

    return apply


def _edit_text(change: Callable[[str], str]) -> Break:
    def apply(folder: Path, raw: dict[str, Any]) -> None:
        (folder / "engine.json").write_text(change(json.dumps(raw)))

    return apply


def _weights(change: Callable[[Path], object]) -> Break:
    return lambda folder, _: change(folder / "weights" / "tiny.safetensors")


def _manifest(change: Callable[[Path], object]) -> Break:
    return lambda folder, _: change(folder / "engine.json") and None


def _link_out(path: Path) -> None:
    outside = path.parents[2] / "outside.safetensors"
    path.rename(outside)
    path.symlink_to(outside)


def _file_to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _grow(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(JSON_BYTES + 1)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _first(raw: dict[str, Any]) -> dict[str, Any]:
    weights: dict[str, Any] = raw["weights"][0]
    return weights


def _graph(raw: dict[str, Any]) -> dict[str, Any]:
    graph: dict[str, Any] = raw["graphs"]["forward"]
    return graph


def _range(file: str = "weights/tiny.safetensors", **change: Any) -> dict[str, Any]:
    return {"file": file, "offset": 8, "bytes": 64, "dtype": "fp32"} | change


def _add_file(folder: Path, name: str) -> dict[str, Any]:
    (folder / name).write_bytes(b"plan")
    return {"file": name, "bytes": 4, "sha256": hashlib.sha256(b"plan").hexdigest()}


def _swap(folder: Path) -> dict[str, Any]:
    spec = {"dtype": "fp32", "module": "q"}
    return {
        "inputs": [
            {"name": "q.lora_A", "shape": [4, 16], "role": "lora_A", **spec},
            {"name": "q.lora_B", "shape": [16, 4], "role": "lora_B", **spec},
        ],
        "base": {"q.weight": _range()},
        "merges": [_add_file(folder, "merge.plan") | {"shape": [16, 16], "max_rank": 4}],
    }


def _plan(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Break:
    """Give the engine a TensorRT plan with everything in it; `change(plan, manifest)` alters it."""

    def apply(folder: Path, raw: dict[str, Any]) -> None:
        plan = _add_file(folder, "engine.plan") | {
            "key": "1" * 64,
            "library": "11.4.0.106",
            "gpu": "NVIDIA H200",
            "compute_capabilities": ["9.0"],
            "hardware_compatibility": "none",
            "version_compatible": False,
            "refit": "all",
            "weight_streaming": False,
            "profiles": ["64x32x1"],
            "weights": {"q.weight": _range()},
            "swap": _swap(folder),
            "layers": _add_file(folder, "layers.json"),
            "control": False,
        }
        raw.update(backend="tensorrt", mode="merged", rank=4)
        _graph(raw)["plan"] = plan
        change(plan, raw)
        write_manifest(folder, raw)

    return apply


def _sub(plan: dict[str, Any], key: str) -> Any:
    return plan["swap"][key]


def _workload(raw: dict[str, Any]) -> dict[str, Any]:
    workload: dict[str, Any] = raw["workloads"]["64x32x1"]
    return workload


def _quantize(raw: dict[str, Any], **change: Any) -> dict[str, Any]:
    raw["quantization"] = {
        "scheme": "fp8", "weights": "channel", "activations": "token",
        "excluded": ["proj_out"], "origin": "pristine",
    } | change  # fmt: skip
    return raw


def _source(raw: dict[str, Any], **change: Any) -> dict[str, Any]:
    raw["sources"][0].update(change)
    return raw


def _fidelity(raw: dict[str, Any], **change: Any) -> dict[str, Any]:
    raw["verification"]["fidelity"] = {
        "keeps": [0.9, -0.1], "timesteps": [1000, 500.5], "finetuned": ["3" * 64]
    } | change  # fmt: skip
    return raw


def _prefuse(raw: dict[str, Any], **change: Any) -> None:
    raw["prefuse"] = [{"name": "lightning", "sha256": "2" * 64, "strength": 1.0} | change]


def _input(raw: dict[str, Any], role: str, **change: Any) -> dict[str, Any]:
    """Give the last graph one more input, of a role."""
    graph = list(raw["graphs"].values())[-1]
    graph["inputs"].append({"name": role, "dtype": "fp32", "shape": [1], "role": role} | change)
    return raw


def _strengths(raw: dict[str, Any], **change: Any) -> dict[str, Any]:
    raw.update(mode="swappable", max_rank=4)
    _input(raw, "strengths", **({"shape": [4]} | change))
    return raw


def _stacked(**change: Any) -> Break:
    def apply(folder: Path, raw: dict[str, Any]) -> None:
        file = _add_file(folder, "adapter.safetensors")
        raw["adapters"] = [file | {"rank": 1, "strength": -0.5, "stack": 3} | change]
        (folder / "engine.json").write_text(json.dumps(raw))

    return apply


def _split(change: Callable[[dict[str, Any]], object]) -> Break:
    """Make the engine two graphs, K of the prompt from one to the other; `change` alters it."""

    def apply(folder: Path, raw: dict[str, Any]) -> None:
        key = {"name": "k", "dtype": "fp32", "shape": [2, 8]}
        context = _add_file(folder, "context.onnx") | {"weight_bytes": 0, "inputs": []}
        raw["graphs"] = {"context": context | {"outputs": [key]}, "denoise": _graph(raw)}
        raw["graphs"]["denoise"]["inputs"].append(key | {"role": "context"})
        _workload(raw)["context"] = {"flops": {"linear": 9}, "bytes": {"linear": 8}}
        change(raw)
        write_manifest(folder, raw)

    return apply


def _split_plans(folder: Path, raw: dict[str, Any]) -> None:
    """Make the engine two graphs, each with a TensorRT plan."""

    def add_plan(raw: dict[str, Any]) -> None:
        plan = raw["graphs"]["denoise"]["plan"] | _add_file(folder, "context.plan")
        raw["graphs"]["context"]["plan"] = plan | {"swap": None, "layers": None}

    _plan(lambda plan, _: plan.update(swap=None))(folder, raw)
    _split(add_plan)(folder, raw)


def _emulated(change: Callable[[dict[str, Any]], object]) -> Break:
    """Give the graph one that emulates it on a CPU; `change` alters its entry."""

    def apply(folder: Path, raw: dict[str, Any]) -> None:
        _graph(raw)["emulated"] = _add_file(folder, "emulated.onnx")
        change(_graph(raw)["emulated"])
        write_manifest(folder, raw)

    return apply


BROKEN: dict[str, tuple[Break, str]] = {
    "empty": (_text(""), "is not JSON"),
    "not JSON": (_text("{'name': 1}"), "is not JSON"),
    "cut off": (_text('{"schema_version": 1, "na'), "is not JSON"),
    "a list": (_text("[]"), "is not a JSON object"),
    "null": (_text("null"), "is not a JSON object"),
    "binary": (_text(b"\xff\xfe\x00"), "can't be read"),
    "byte order mark": (_text(b"\xef\xbb\xbf{}"), "is not JSON"),
    "nested deeply": (_text("[" * 200_000), "is not JSON"),
    "huge": (_manifest(_grow), "is larger than 64 MiB"),
    "missing": (_manifest(Path.unlink), "is not an engine folder"),
    "a folder": (_manifest(_file_to_folder), "is not a file"),
    "a pipe": (_manifest(_pipe), "is not a file"),
    "NaN": (_replace("3e-07", "NaN"), "NaN is no JSON number"),
    "infinity": (_replace("3e-07", "-Infinity"), "-Infinity is no JSON number"),
    "overflow": (_replace("3e-07", "1e999"), "finite"),
    "key twice": (_replace('"mode": "full"', '"mode": "full", "mode": "full"'), "key mode"),
    "newer schema": (_edit(lambda m: m.update(schema_version=2)), "schema version 2"),
    "older schema": (_edit(lambda m: m.update(schema_version=0)), "schema_version"),
    "schema as text": (_edit(lambda m: m.update(schema_version="1")), "schema_version"),
    "no schema": (_edit(lambda m: m.pop("schema_version")), "schema_version"),
    "unknown field": (_edit(lambda m: m.update(colour="red")), "colour"),
    "unknown field inside": (_edit(lambda m: _first(m).update(x=1)), "weights.0.x"),
    "missing field": (_edit(lambda m: m.pop("dtype")), "dtype"),
    "wrong type": (_edit(lambda m: m.update(random_weights="yes")), "random_weights"),
    "unknown mode": (_edit(lambda m: m.update(mode="fused")), "mode"),
    "unknown dtype": (_edit(lambda m: m.update(dtype="fp8")), "dtype"),
    "unknown backend": (_edit(lambda m: m.update(backend="magic")), "backend"),
    "unknown role": (_edit(lambda m: _graph(m)["inputs"][0].update(role="x")), "role"),
    "separate without rank": (_edit(lambda m: m.update(mode="separate")), "needs a rank"),
    "rank 0": (_edit(lambda m: m.update(rank=0)), "rank"),
    "swappable without max_rank": (_edit(lambda m: m.update(mode="swappable")), "max_rank"),
    "no graph": (_edit(lambda m: m.update(graphs={})), "neither 'forward' nor 'context' and"),
    "another graph": (
        _edit(lambda m: m["graphs"].update(vae=_graph(m))), "neither 'forward' nor 'context' and"),
    "no workload": (_edit(lambda m: m.update(workloads={})), "workloads is empty"),
    "workload of another input": (
        _edit(lambda m: m["workloads"]["64x32x1"]["shapes"].update(z=[1])), "z isn't an input"),
    "negative size": (
        _edit(lambda m: m["workloads"]["64x32x1"]["shapes"].update(x=[-1, 16])), "shapes"),
    "negative bytes": (_edit(lambda m: _first(m).update(bytes=-1)), "bytes"),
    "no hash": (_edit(lambda m: _first(m).update(sha256="abc")), "sha256"),
    "input twice": (
        _edit(lambda m: _graph(m)["inputs"].append(_graph(m)["inputs"][0])), "input x"),
    "file twice": (_edit(lambda m: m["weights"].append(_first(m))), "file weights/tiny"),
    "absolute path": (_edit(lambda m: _first(m).update(file="/etc/passwd")), "leaves the"),
    "path upwards": (_edit(lambda m: _first(m).update(file="../x")), "leaves the"),
    "path hidden upwards": (_edit(lambda m: _first(m).update(file="a/../../x")), "leaves the"),
    "path with backslash": (_edit(lambda m: _first(m).update(file="..\\x")), "leaves the"),
    "path with null": (_edit(lambda m: _first(m).update(file="a\0b")), "leaves the"),
    "empty path": (_edit(lambda m: _first(m).update(file="")), "leaves the"),
    "weights missing": (_weights(Path.unlink), "is missing"),
    "weights cut off": (_weights(lambda p: os.truncate(p, 100)), "has 100 bytes"),
    "weights a folder": (_weights(_file_to_folder), "is not a file"),
    "weights linked outside": (_weights(_link_out), "leads out of"),
    "graph missing": (lambda f, _: (f / "model.onnx").unlink(), "model.onnx is missing"),
    "graph cut off": (lambda f, _: os.truncate(f / "model.onnx", 9), "has 9 bytes"),
    "weights written over": (_weights(write_over), "wrote over"),
    "no weight_bytes": (_edit(lambda m: _graph(m).pop("weight_bytes")), "forward.weight_bytes"),
    "comment": (_replace('"mode"', '// x\n"mode"'), "is not JSON"),
    "text behind it": (_edit_text(lambda text: text + " x"), "is not JSON"),
    "key twice inside": (_replace('"config": {', '"config": {"a": 1, "a": 2, '), "key a"),
    "infinite": (_replace('"config": {', '"config": {"a": 1e999, '), "is not JSON"),
    "nested too deeply": (
        _replace('"config": {', '"config": {"a": ' + "[" * 201 + "]" * 201 + ", "), "JSON"),
    "half a character": (_replace('"model": "tiny"', '"model": "\\ud800"'), "JSON"),
    "schema as a float": (_replace("_version\": 1", "_version\": 1.0"), "schema_version"),
    "schema as a boolean": (_replace("_version\": 1", "_version\": true"), "schema_version"),
    "count as a float": (_replace('"batch": 1', '"batch": 1.0'), "64x32x1.batch"),
    "count as a boolean": (_replace('"batch": 1', '"batch": true'), "64x32x1.batch"),
    "no sample": (_replace('"batch": 1', '"batch": 0'), "64x32x1.batch"),
    "count of more than 63 bits": (
        _replace('"tokens": 6', '"tokens": 9223372036854775808'), "64x32x1.tokens"),
    "range of three": (_replace("[0.0, 1000.0]", "[0, 1, 2]"), "inputs.1.range"),
    "size as a float": (_edit(lambda m: _graph(m)["inputs"][0].update(shape=[6.5])), "shape.0"),
    "no symbol": (_edit(lambda m: _graph(m)["inputs"][0].update(shape=["6a"])), "shape.0"),
    "role null": (_edit(lambda m: _graph(m)["inputs"][0].update(role=None)), "inputs.0.role"),
    "adapters null": (_edit(lambda m: m.update(adapters=None)), "adapters"),
    "graphs a list": (_edit(lambda m: m.update(graphs=[])), "graphs"),
    "target no text": (_edit(lambda m: m.update(targets=[3])), "targets.0"),
    "tool no text": (_edit(lambda m: m.update(tools={"a": 1})), "tools.a"),
    "error no number": (_replace("3e-07", '"x"'), "verification.error"),
    "unknown method": (_replace('"method": "blocks"', '"method": "x"'), "verification.method"),
    "path of nothing": (_edit(lambda m: _first(m).update(file="./.")), "leaves the"),
    "a plan for ONNX Runtime": (
        _plan(lambda _, m: m.update(backend="onnxruntime")), "onnxruntime with a plan"),
    "TensorRT without a plan": (
        _edit(lambda m: m.update(backend="tensorrt")), "tensorrt without a plan"),
    "TensorRT-RTX with plan null": (
        _edit(lambda m: (m.update(backend="tensorrt-rtx"), _graph(m).update(plan=None))),
        "tensorrt-rtx without a plan"),
    "unknown field of a plan": (_plan(lambda p, _: p.update(tactics=1)), "plan.tactics"),
    "plan without a library": (_plan(lambda p, _: p.pop("library")), "plan.library"),
    "plan without a GPU": (_plan(lambda p, _: p.pop("gpu")), "plan.gpu"),
    "plan without streaming": (_plan(lambda p, _: p.pop("weight_streaming")), "weight_streaming"),
    "plan without profiles": (_plan(lambda p, _: p.pop("profiles")), "plan.profiles"),
    "plan without a hash": (_plan(lambda p, _: p.update(sha256="1")), "plan.sha256"),
    "plan of a short key": (_plan(lambda p, _: p.update(key="1" * 63)), "plan.key"),
    "plan that leaves the folder": (_plan(lambda p, _: p.update(file="../p")), "leaves the"),
    "plan missing": (_plan(lambda p, _: p.update(file="other.plan")), "other.plan is missing"),
    "plan cut off": (_plan(lambda p, _: p.update(bytes=5)), "engine.plan has 4 bytes"),
    "plan twice": (_plan(lambda p, _: p["layers"].update(file="engine.plan")), "file engine.plan"),
    "no compute capability": (
        _plan(lambda p, _: p.update(compute_capabilities=["9.0", "90"])), "capabilities.1"),
    "compute capability of two digits": (
        _plan(lambda p, _: p.update(compute_capabilities=["9.10"])), "capabilities.0"),
    "unknown hardware": (
        _plan(lambda p, _: p.update(hardware_compatibility="all")), "hardware_compatibility"),
    "versions as text": (
        _plan(lambda p, _: p.update(version_compatible="no")), "version_compatible"),
    "unknown refit": (_plan(lambda p, _: p.update(refit="some")), "plan.refit"),
    "control null": (_plan(lambda p, _: p.update(control=None)), "plan.control"),
    "layers without a size": (_plan(lambda p, _: p["layers"].pop("bytes")), "layers.bytes"),
    "layers missing": (
        _plan(lambda p, _: p["layers"].update(file="l.json")), "l.json is missing"),
    "profile of no workload": (
        _plan(lambda p, _: p.update(profiles=["9x9x9"])), "profiles aren't the workloads"),
    "workload without a profile": (
        _plan(lambda p, _: p.update(profiles=[])), "profiles aren't the workloads"),
    "profile twice": (
        _plan(lambda p, _: p["profiles"].append("64x32x1")), "profiles aren't the workloads"),
    "weights a list": (_plan(lambda p, _: p.update(weights=[])), "plan.weights"),
    "weights behind the file": (
        _plan(lambda p, _: p["weights"].update(b=_range(offset=9999))), "b is outside"),
    "weights beyond 63 bits": (
        _plan(lambda p, _: p["weights"].update(b=_range(offset=2**63 - 1, bytes=2**63 - 1))),
        "b is outside"),
    "weights of an unlisted file": (
        _plan(lambda p, _: p["weights"].update(b=_range("model.onnx"))), "b is outside"),
    "weights before the file": (
        _plan(lambda p, _: p["weights"].update(b=_range(offset=-1))), "weights.b.offset"),
    "weights out of the folder": (
        _plan(lambda p, _: p["weights"].update(b=_range("../w"))), "leaves the"),
    "weights of an unknown dtype": (
        _plan(lambda p, _: p["weights"].update(b=_range(dtype="int8"))), "weights.b.dtype"),
    "baked with weights": (
        _plan(lambda p, _: p.update(refit="baked", swap=None)), "takes no weights"),
    "swap of bound weights": (
        _plan(lambda p, _: p.update(refit="none")), "of refit none can't swap in place"),
    "swap of a full engine": (
        _plan(lambda _, m: m.update(mode="full")), "a full engine of refit all can't swap"),
    "swap without inputs": (_plan(lambda p, _: p["swap"].pop("inputs")), "swap.inputs"),
    "swap outside the weights": (
        _plan(lambda p, _: _sub(p, "base").update(q=_range(bytes=9999))), "q is outside"),
    "swap input of no dtype": (
        _plan(lambda p, _: _sub(p, "inputs")[0].pop("dtype")), "inputs.0.dtype"),
    "merge plan of one size": (
        _plan(lambda p, _: _sub(p, "merges")[0].update(shape=[16])), "merges.0.shape"),
    "merge plan of nothing": (
        _plan(lambda p, _: _sub(p, "merges")[0].update(shape=[16, 0])), "merges.0.shape"),
    "merge plan of no rank": (
        _plan(lambda p, _: _sub(p, "merges")[0].update(max_rank=0)), "merges.0.max_rank"),
    "no command": (_edit(lambda m: m.pop("command")), "command"),
    "command in one": (_edit(lambda m: m.update(command="build --rank 8")), "command"),
    "command no text": (_edit(lambda m: m["command"].append(8)), "command.5"),
    "compared by nothing": (_edit(lambda m: m.update(compared_by={})), "compared_by"),
    "compared by no text": (
        _edit(lambda m: m["compared_by"].update(cards=1)), "compared_by.cards"),
    "unknown LoRA form": (_edit(lambda m: m.update(lora_form="x")), "lora_form"),
    "target set no text": (_edit(lambda m: m.update(target_set=["q"])), "target_set"),
    "unknown expert": (_edit(lambda m: m.update(expert="middle")), "expert"),
    "no card": (_edit(lambda m: m.update(cards=0)), "cards"),
    "cards null": (_edit(lambda m: m.update(cards=None)), "cards"),
    "prefuse null": (_edit(lambda m: m.update(prefuse=None)), "prefuse"),
    "prefused without a strength": (
        _edit(lambda m: _prefuse(m, strength=None)), "prefuse.0.strength"),
    "prefused of no hash": (_edit(lambda m: _prefuse(m, sha256="2")), "prefuse.0.sha256"),
    "prefused with more": (_edit(lambda m: _prefuse(m, rank=4)), "prefuse.0.rank"),
    "unknown scheme": (_edit(lambda m: _quantize(m, scheme="int3")), "quantization.scheme"),
    "unknown granularity": (
        _edit(lambda m: _quantize(m, weights="row")), "quantization.weights"),
    "quantised from nowhere": (
        _edit(lambda m: (_quantize(m), m["quantization"].pop("origin"))), "quantization.origin"),
    "activations left out": (
        _edit(lambda m: (_quantize(m), m["quantization"].pop("activations"))),
        "quantization.activations"),
    "excluded no text": (
        _edit(lambda m: _quantize(m, excluded=[1])), "quantization.excluded.0"),
    "source of scheme 8": (_edit(lambda m: _source(m, scheme=8)), "sources.0.scheme"),
    "scale from elsewhere": (
        _edit(lambda m: _source(m, scale_from="luck")), "sources.0.scale_from"),
    "unknown oracle": (
        _edit(lambda m: m["verification"].update(adapter_oracle="me")), "adapter_oracle"),
    "emulated error no number": (
        _edit(lambda m: m["verification"].update(emulated_error="x")), "emulated_error"),
    "fidelity of nothing": (
        _edit(lambda m: (_fidelity(m), m["verification"]["fidelity"].pop("keeps"))),
        "fidelity.keeps"),
    "fidelity of no adapter": (_edit(lambda m: _fidelity(m, keeps=[])), "fidelity.keeps"),
    "fidelity no number": (_edit(lambda m: _fidelity(m, keeps=["x"])), "fidelity.keeps.0"),
    "fidelity to no file": (
        _edit(lambda m: _fidelity(m, finetuned=["x"])), "fidelity.finetuned.0"),
    "fidelity to nobody knows what": (
        _edit(lambda m: (_fidelity(m), m["verification"]["fidelity"].pop("finetuned"))),
        "fidelity.finetuned"),
    "fidelity at no number": (
        _edit(lambda m: _fidelity(m, timesteps=["x"])), "fidelity.timesteps.0"),
    "no activation bytes": (
        _edit(lambda m: _workload(m).pop("activation_bytes")), "64x32x1.activation_bytes"),
    "context of one graph": (
        _edit(lambda m: _workload(m).update(context={"flops": {}, "bytes": {}})),
        "with a context, unlike graphs"),
    "split without a context's cost": (
        _split(lambda m: _workload(m).pop("context")), "without a context, unlike graphs"),
    "context's cost in part": (
        _split(lambda m: _workload(m)["context"].pop("bytes")), "context.bytes"),
    "context without denoise": (
        _split(lambda m: m["graphs"].pop("denoise")), "neither 'forward' nor 'context' and"),
    "context that no graph makes": (
        _edit(lambda m: _input(m, "context")), "isn't an output of a context graph"),
    "context of another name": (
        _split(lambda m: _input(m, "context", name="v")), "v isn't an output of a context graph"),
    "split file missing": (
        _split(lambda m: m["graphs"]["context"].update(file="c.onnx")), "c.onnx is missing"),
    "emulated file missing": (
        _emulated(lambda e: e.update(file="e.onnx")), "e.onnx is missing"),
    "emulated without a size": (_emulated(lambda e: e.pop("bytes")), "emulated.bytes"),
    "emulated with more": (_emulated(lambda e: e.update(dtype="fp32")), "emulated.dtype"),
    "swappable without strengths": (
        _edit(lambda m: m.update(mode="swappable", max_rank=4)), "an input of role strengths"),
    "strength no number": (_stacked(strength="1"), "strength"),
    "stack below zero": (_stacked(stack=-1), "stack"),
    "strengths of another rank": (
        _edit(lambda m: _strengths(m, shape=[3])), "isn't fp32 of [max_rank]"),
    "strengths in fp16": (
        _edit(lambda m: _strengths(m, dtype="fp16")), "isn't fp32 of [max_rank]"),
    "strengths twice": (
        _edit(lambda m: (_strengths(m), _strengths(m, name="more"))), "more is a second"),
    "a card's input of one card": (
        _edit(lambda m: _input(m, "card")), "card is a card's, of an engine for one card"),
    "merge plan missing": (
        _plan(lambda p, _: _sub(p, "merges")[0].update(file="m.plan")), "m.plan is missing"),
}  # fmt: skip


SOUND: dict[str, Break] = {
    "as it is": _edit(lambda _: None),
    "white space": _edit_text(lambda text: "\n\t " + text + "\r\n"),
    "prefused": _edit(_prefuse),
    "prefused weights": _edit(lambda m: _first(m).update(origin="prefused")),
    "adapters of a stack": _stacked(),
    "defaults left out": _edit(lambda m: (m.pop("max_rank"), m.pop("adapters"))),
    "nulls": _edit(lambda m: _graph(m)["inputs"][0].update(module=None, range=None)),
    "role named": _edit(lambda m: _graph(m)["inputs"][0].update(role="data")),
    "range of integers": _replace("[0.0, 1000.0]", "[0, 1000]"),
    "symbols": _edit(lambda m: _graph(m)["inputs"][0].update(shape=["_rows1", 16])),
    "largest count": _replace('"flops": {', '"flops": {"x": 9223372036854775807, '),
    "anything as configuration": _edit(lambda m: m.update(config={"a": [None, 1.5, {"b": []}]})),
    "nested as deeply as may be": _replace(
        '"config": {', '"config": {"a": ' + "[" * 198 + "]" * 198 + ", "),
    "escapes": _replace('"model": "tiny"', '"model": "\\u00e4\\ud83d\\ude00\\u0000"'),
    "path with a dot": _edit(lambda m: _first(m).update(file="./weights//tiny.safetensors")),
    "made by no command": _edit(lambda m: m.update(command=[])),
    "an emulated graph": _emulated(lambda _: None),
    "what is new left out or null": _edit(
        lambda m: (m.update(target_set=None, lora_form=None, expert=None, quantization=None),
                   _graph(m).update(emulated=None), _workload(m).update(context=None),
                   _source(m, scheme=None, scale_from=None))),
    "a quantised source, read by sidecar": _edit(
        lambda m: _source(m, scheme="gguf:Q8_0", scale_from="sidecar")),
    "verified in every way": _edit(
        lambda m: (m["verification"].update(adapter_oracle="peft", emulated_error=0.1),
                   _fidelity(m))),
    "targets of a pattern": _edit(lambda m: m.update(target_set="blocks.[0-9].attn2.*")),
    "an adapter as a branch": _edit(lambda m: m.update(lora_form="branch")),
    "an adapter inside its layers' products": _edit(lambda m: m.update(lora_form="fused")),
    "verified by nobody": _edit(lambda m: m.update(verification={"method": "none"})),
}  # fmt: skip

# of the same engine, but with a plan; what runs it needn't be there
SOUND_PLANS: dict[str, Break] = {
    "a plan with everything": _plan(lambda _p, _m: None),
    "a plan without what may be left out": _plan(
        lambda p, _: [p.pop(key) for key in ("swap", "layers", "control")]),
    "a plan with nulls": _plan(lambda p, _: p.update(swap=None, layers=None, gpu=None)),
    "a baked plan": _plan(
        lambda p, m: (p.update(refit="baked", weights={}, swap=None), m.update(mode="full"))),
    "a plan of TensorRT-RTX": _plan(
        lambda p, m: (m.update(backend="tensorrt-rtx"),
                      p.update(gpu=None, compute_capabilities=["8.9", "12.0"]))),
    "a plan for every GPU from Ampere on": _plan(
        lambda p, _: p.update(hardware_compatibility="ampere+", compute_capabilities=[])),
    "a plan whose weights end with the file": _plan(
        lambda p, m: p["weights"].update(b=_range(offset=_first(m)["bytes"] - 64))),
    "a plan that swaps its own matrices": _plan(lambda p, _: p.update(refit="targets")),
    "a swap of nothing": _plan(
        lambda p, _: p["swap"].update(inputs=[], base={}, merges=[])),
}  # fmt: skip

# of the same engine, with what readers take and this version refuses to run: what it says then
NOT_RUN: dict[str, tuple[Break, str]] = {
    "over two cards": (
        _edit(lambda m: (m.update(cards=2), _input(m, "card"))),
        "this engine is split over 2 cards; this version runs engines of one card"),
    "quantised": (
        _edit(_quantize),
        "this engine is quantised to fp8; this version runs int8, and fp8 with TensorRT"),
    "quantised weights alone": (
        _edit(lambda m: _quantize(m, scheme="nvfp4", weights="block", activations=None)),
        "this engine is quantised to nvfp4; this version runs int8, and fp8 with TensorRT"),
}  # fmt: skip

# what libwanrt refuses by name, and Python's wanrt in words of its own
NOT_RUN_NATIVELY: dict[str, tuple[Break, str]] = {
    "split plans": (
        _split_plans,
        "this engine has a context graph; this version runs those with onnxruntime, not tensorrt"),
}  # fmt: skip
