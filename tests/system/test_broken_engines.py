"""Whatever is broken about engines and the adapters for them: one line says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import valid_files
from commands import wanexport, wanrt
from valid_files import (
    LA,
    LB,
    A,
    B,
    Case,
    Q,
    Samples,
    altered,
    check,
    cut,
    engine,
    link_out,
    manifest,
    ones,
    overwrite,
    replace_by_folder,
    run,
    shard,
)

root, samples = valid_files.root, valid_files.samples  # fixtures

EXPORT: dict[str, Case] = {
    "adapter for a fixed engine": Case(
        lambda w: ["adapter", w.lora, "--for", w.separate, "-o", w.tmp / "x"],
        "is a separate engine; its adapter can't be changed",
    ),
    "adapter for no engine": Case(
        lambda w: ["adapter", w.lora, "--for", w.tmp, "-o", w.tmp / "x"], "is not an engine folder"
    ),
    "adapter of nothing": Case(
        lambda w: ["adapter", w.tmp / "n", "--for", w.swappable, "-o", w.tmp / "x"],
        "doesn't exist",
    ),
    "adapter of too large a rank": Case(
        lambda w: [
            "adapter", w.with_lora(**{LA: ones(8, 256), LB: ones(256, 8)}),
            "--for", w.swappable, "-o", w.tmp / "x",
        ],
        rf"rank 8 at {Q}, the engine takes up to 4",
    ),
    "adapter of other modules": Case(
        lambda w: [
            "adapter",
            w.with_lora(
                **{
                    "transformer.proj_out.lora_A.weight": ones(4, 256),
                    "transformer.proj_out.lora_B.weight": ones(64, 4),
                }
            ),
            "--for", w.swappable, "-o", w.tmp / "x",
        ],
        "has no inputs for proj_out",
    ),
    "adapter of another architecture": Case(
        lambda w: [
            "adapter", w.with_lora(**{LA: ones(4, 128), LB: ones(128, 4)}),
            "--for", w.swappable, "-o", w.tmp / "x",
        ],
        rf"{Q}\.weight is \[256, 256\]",
    ),
    "adapter over a file": Case(
        lambda w: ["adapter", w.lora, "--for", w.swappable, "-o", w.file("x", "")], "x exists"
    ),
    "adapter into no folder": Case(
        lambda w: ["adapter", w.lora, "--for", w.swappable, "-o", w.tmp / "no" / "x"],
        "no/x can't be written: .*/no isn't a folder",
    ),
}  # fmt: skip

RUNTIME: dict[str, Case] = {
    "no engine": Case(lambda w: run(w.tmp), "is not an engine folder"),
    "a file for an engine": Case(lambda w: ["info", w.lora], "is a file, not an engine folder"),
    "engine.json truncated": Case(
        lambda w: ["info", engine(w, lambda f: cut(f / "engine.json", 200))], "is not JSON"
    ),
    "engine.json binary": Case(
        lambda w: ["info", engine(w, lambda f: (f / "engine.json").write_bytes(b"\xff\x00"))],
        "engine.json can't be read",
    ),
    "engine.json a list": Case(
        lambda w: ["info", engine(w, lambda f: (f / "engine.json").write_text("[]"))],
        "is not a JSON object",
    ),
    "engine.json a folder": Case(
        lambda w: ["info", engine(w, lambda f: replace_by_folder(f / "engine.json"))],
        "is not a file",
    ),
    "newer schema": Case(lambda w: ["info", manifest(w, schema_version=2)], "has schema version 2"),
    "unknown field": Case(lambda w: ["info", manifest(w, quality="good")], "quality"),
    "unknown mode": Case(lambda w: ["info", manifest(w, mode="fused")], "engine.json: mode: "),
    "negative rank": Case(lambda w: ["info", manifest(w, max_rank=-1)], "engine.json: max_rank"),
    "graph outside": Case(
        lambda w: [
            "info",
            manifest(w, graphs={"forward": json.loads((w.swappable / "engine.json").read_text())
                                ["graphs"]["forward"] | {"file": "../model.onnx"}}),
        ],
        "path leaves the engine folder",
    ),
    "graph linked from outside": Case(
        lambda w: run(engine(w, link_out)), r"model\.onnx leads out of the engine folder"
    ),
    "graph missing": Case(
        lambda w: run(engine(w, lambda f: (f / "model.onnx").unlink())), "model.onnx is missing"
    ),
    "explaining no engine": Case(lambda w: ["explain", w.tmp], "is not an engine folder"),
    "explaining a truncated graph": Case(
        lambda w: ["explain", engine(w, lambda f: cut(f / "model.onnx"))], "bytes, engine.json says"
    ),
    "graph truncated": Case(
        lambda w: run(engine(w, lambda f: cut(f / "model.onnx"))), "bytes, engine.json says"
    ),
    "weights missing": Case(
        lambda w: run(engine(w, lambda f: shard(f / "weights").unlink())), "safetensors is missing"
    ),
    "weights written over": Case(
        lambda w: run(engine(w, overwrite)), "its bytes are not the recorded ones"
    ),
    "no such workload": Case(lambda w: run(w.swappable, "--workload", "9x9x9"), "no workload"),
    "adapter missing": Case(lambda w: run(w.swappable, "--adapter", w.tmp / "x"), "can't be read"),
    "adapter raw": Case(
        lambda w: run(w.swappable, "--adapter", w.lora), "isn't a canonical adapter"
    ),
    "adapter a pickle": Case(
        lambda w: run(w.swappable, "--adapter", w.file("x.pt", b"\x80\x04.")), "can't be read"
    ),
    "adapter truncated": Case(
        lambda w: run(w.swappable, "--adapter", cut(w.copy(w.adapter))), "can't be read"
    ),
    "adapter of a later version": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda _: None, version="2")),
        "has version 2, this wanrt reads 1",
    ),
    "adapter of other names": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.update(x=t.pop(A)))),
        "holds x, which isn't an input of the engine",
    ),
    "adapter without a half": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.pop(B))),
        "without its other half",
    ),
    "adapter of another rank": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.update({A: ones(9, 256)}))),
        "has rank 9",
    ),
    "adapter of another shape": Case(
        lambda w: run(w.swappable, "--adapter", altered(w, lambda t: t.update({A: ones(4, 99)}))),
        r"of shape \[4, 99\]",
    ),
    "adapter of another dtype": Case(
        lambda w: run(
            w.swappable,
            "--adapter",
            altered(w, lambda t: t.update({A: t[A].astype(np.float16)})),
        ),
        "in F16, the engine takes fp32",
    ),
    "adapter for a fixed engine": Case(
        lambda w: run(w.separate, "--adapter", w.adapter), "adapter is fixed"
    ),
    "inputs missing": Case(lambda w: run(w.swappable, "--inputs", w.tmp / "i"), "i can't be read"),
    "inputs of other names": Case(
        lambda w: run(w.swappable, "--inputs", w.lora), "no input"
    ),
    "bench of nothing": Case(lambda w: ["bench", w.tmp / "none"], "isn't a folder"),
    "bench of an empty folder": Case(lambda w: ["bench", w.tmp], "holds no engine"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNTIME)
def test_wanrt_refuses(name: str, samples: Samples) -> None:
    case = RUNTIME[name]
    check(samples, case, wanrt(*case.argv(samples)))
    assert not (samples.tmp / "sample.safetensors").exists()


@pytest.mark.parametrize("name", EXPORT)
def test_wanexport_adapter_refuses(name: str, samples: Samples) -> None:
    case = EXPORT[name]
    check(samples, case, wanexport(*case.argv(samples)))
