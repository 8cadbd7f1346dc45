"""engine.json: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from brokenmanifests import BROKEN, NOT_RUN, SOUND, SOUND_PLANS
from commands import wanrt
from pydantic import BaseModel
from tinyengines import MODULE, Tiny, make_engine, read_raw, touch_ns

from wanrt.backends.load import check_engine
from wanrt.errors import ManifestError, UnsupportedError
from wanrt.manifest import read, schema
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.folder import open_folder
from wanrt.manifest.origin import Fidelity, Prefused, Quantization, Source, Verification
from wanrt.manifest.plan import MergePlan, PlanFile, Swap, WeightRange

ENGINES = Path(__file__).parents[3] / "engines"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return make_engine(tmp_path / "engine", Tiny())


def test_round_trip(engine: Path) -> None:
    manifest = read.read_manifest(engine)
    assert read.parse_manifest(manifest.to_json(), "again") == manifest


@pytest.mark.parametrize("case", BROKEN)
def test_broken_manifests_are_refused_in_one_line(engine: Path, case: str) -> None:
    apply, message = BROKEN[case]
    apply(engine, read_raw(engine))
    with pytest.raises(ManifestError) as caught:
        check_engine(open_folder(engine), "cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", SOUND)
def test_sound_manifests_are_read(engine: Path, case: str) -> None:
    SOUND[case](engine, read_raw(engine))
    check_engine(open_folder(engine), "cpu")


@pytest.mark.parametrize("case", SOUND_PLANS)
def test_sound_plans_are_read(engine: Path, case: str) -> None:
    SOUND_PLANS[case](engine, read_raw(engine))
    assert read.read_manifest(engine).forward.plan is not None


@pytest.mark.parametrize("case", NOT_RUN)
def test_what_is_not_built_yet_is_read_and_refused_by_name(engine: Path, case: str) -> None:
    apply, message = NOT_RUN[case]
    apply(engine, read_raw(engine))
    assert read.read_manifest(engine).name == "tiny-full"
    with pytest.raises(UnsupportedError) as caught:
        check_engine(open_folder(engine), "cpu")
    assert str(caught.value) == message
    told = wanrt("info", engine)
    assert (told.code, told.err) == (0, "")
    assert wanrt("verify", engine).code == 0
    benched = wanrt("bench", engine, "--loads", 3, "--no-probe")
    assert message in " ".join(benched.out.split())


@pytest.mark.torch
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
    assert read.read_manifest(folder).weight_bytes == sum(referred) > 0


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ManifestError, match="is a file"):
        read.read_manifest(tmp_path / "x")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not an engine folder"):
        read.read_manifest(tmp_path / "x")


@pytest.mark.parametrize("storage", ["copy", "reflink"])
def test_copies_may_be_moved(tmp_path: Path, storage: str) -> None:
    folder = make_engine(tmp_path / "engine", Tiny(storage=storage))
    touch_ns(folder / "weights" / "tiny.safetensors", 1)
    check_engine(open_folder(folder), "cpu")


def test_links_into_the_folder_are_allowed(engine: Path) -> None:
    path = engine / "weights" / "tiny.safetensors"
    path.rename(engine / "weights" / "other.safetensors")
    path.symlink_to("other.safetensors")
    check_engine(open_folder(engine), "cpu")


def test_committed_schema_is_the_code_s() -> None:
    committed = (ENGINES / "engine.schema.json").read_text(encoding="utf-8")
    assert committed == schema.json_schema(), "run: python -m wanrt.manifest > engines/..."


def test_schema_accepts_what_the_code_writes(tmp_path: Path) -> None:
    folder = make_engine(
        tmp_path / "e", Tiny(mode="swappable", max_rank=4, adapters=(2,), name="s")
    )
    schema = json.loads((ENGINES / "engine.schema.json").read_text(encoding="utf-8"))
    written = json.loads(read.read_manifest(folder).to_json())
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"colour": "red"}, schema)


def _models() -> list[type[BaseModel]]:
    return [
        schema.Manifest, schema.Graph, TensorSpec, schema.Workload, schema.WeightFile,
        schema.ContextCost, schema.AdapterFile, Source, Prefused, Quantization, Fidelity,
        Verification, PlanFile, WeightRange, MergePlan, Swap,
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
    assert read.parse_manifest(example, "README.md").targets == (MODULE,)


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
