"""engine.json: what is read, and what is refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from tinyengines import MODULE, Tiny, make_engine, read_raw, touch_ns, write_manifest

import wanrt.manifest as contract
from wanrt.engine import check_engine
from wanrt.errors import ManifestError

ENGINES = Path(__file__).parents[1] / "engines"

Break = Callable[[Path, dict[str, Any]], None]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return make_engine(tmp_path / "engine", Tiny())


def test_round_trip(engine: Path) -> None:
    manifest = contract.read_manifest(engine)
    assert contract.parse_manifest(manifest.to_json(), "again") == manifest


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


def _weights(change: Callable[[Path], object]) -> Break:
    return lambda folder, _: change(folder / "weights" / "tiny.safetensors") and None


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
        file.truncate(contract.MAX_MANIFEST_BYTES + 1)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _first(raw: dict[str, Any]) -> dict[str, Any]:
    weights: dict[str, Any] = raw["weights"][0]
    return weights


def _graph(raw: dict[str, Any]) -> dict[str, Any]:
    graph: dict[str, Any] = raw["graphs"]["forward"]
    return graph


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
    "no graph": (_edit(lambda m: m.update(graphs={})), "no 'forward'"),
    "no workload": (_edit(lambda m: m.update(workloads={})), "workloads is empty"),
    "workload of another input": (
        _edit(lambda m: m["workloads"]["64x32x1"]["shapes"].update(z=[1])), "z is no input"),
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
    "weights written over": (_weights(lambda p: touch_ns(p, 1)), "wrote over"),
    "no weight_bytes": (_edit(lambda m: _graph(m).pop("weight_bytes")), "forward.weight_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_manifests_are_refused_in_one_line(engine: Path, case: str) -> None:
    apply, message = BROKEN[case]
    apply(engine, read_raw(engine))
    with pytest.raises(ManifestError) as caught:
        check_engine(engine, "cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weight_bytes_are_what_the_graph_refers_to(tmp_path: Path) -> None:
    import onnx
    from studies import build

    build(tmp_path, ranks=(2,), modes=("separate",), verify=False)
    (folder,) = (path.parent for path in tmp_path.glob("[!.]*/engine.json"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    referred = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "length"
    ]
    assert contract.read_manifest(folder).weight_bytes == sum(referred) > 0


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ManifestError, match="is a file"):
        contract.read_manifest(tmp_path / "x")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not an engine folder"):
        contract.read_manifest(tmp_path / "x")


@pytest.mark.parametrize("storage", ["copy", "reflink"])
def test_copies_may_be_moved(tmp_path: Path, storage: str) -> None:
    folder = make_engine(tmp_path / "engine", Tiny(storage=storage))
    touch_ns(folder / "weights" / "tiny.safetensors", 1)
    assert check_engine(folder, "cpu").mode == "full"


def test_links_into_the_folder_are_allowed(engine: Path) -> None:
    path = engine / "weights" / "tiny.safetensors"
    path.rename(engine / "weights" / "other.safetensors")
    path.symlink_to("other.safetensors")
    assert check_engine(engine, "cpu").name == "tiny-full"


def test_committed_schema_is_the_code_s() -> None:
    committed = (ENGINES / "engine.schema.json").read_text(encoding="utf-8")
    assert committed == contract.json_schema(), "run: python -m wanrt.manifest > engines/..."


def test_schema_accepts_what_the_code_writes(tmp_path: Path) -> None:
    folder = make_engine(
        tmp_path / "e", Tiny(mode="swappable", max_rank=4, adapters=(2,), name="s")
    )
    schema = json.loads((ENGINES / "engine.schema.json").read_text(encoding="utf-8"))
    written = json.loads(contract.read_manifest(folder).to_json())
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"colour": "red"}, schema)


def _models() -> list[type[BaseModel]]:
    return [
        contract.Manifest, contract.Graph, contract.TensorSpec, contract.Workload,
        contract.WeightFile, contract.AdapterFile, contract.Source, contract.Verification,
    ]  # fmt: skip


@pytest.mark.parametrize("model", _models(), ids=lambda m: m.__name__)
def test_specification_mentions_every_field(model: type[BaseModel]) -> None:
    text = (ENGINES / "README.md").read_text(encoding="utf-8")
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []


def test_specification_s_example_is_a_manifest() -> None:
    text = (ENGINES / "README.md").read_text(encoding="utf-8")
    example = text.split("```json\n")[1].split("```")[0]
    for short in ("5d41...", "7d79...", "9e10..."):
        example = example.replace(short, "0" * 64)
    assert contract.parse_manifest(example, "README.md").targets == (MODULE,)


def test_specification_s_reader_runs_an_engine(tmp_path: Path) -> None:
    import numpy as np
    from tinyengines import adapter_tensors, expect

    tiny = Tiny(mode="swappable", max_rank=4, adapters=(2,), name="s")
    folder = make_engine(tmp_path / "engine", tiny)
    text = (ENGINES / "README.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    x = np.ones((6, 16), np.float32)
    feeds = {"x": x, "timestep": np.zeros(1, np.float32)}
    (y,) = scope["run"](folder, feeds, folder / "adapters" / "r2.safetensors")
    np.testing.assert_allclose(y, expect(tiny, x, adapter_tensors(2)), rtol=1e-4, atol=1e-5)
