"""TensorRT-RTX's own parser on every graph that is exported; it runs without a GPU.

Each job's initializers are all marked as refittable by their checkpoint names, and the dtypes of
inputs and outputs compared, in the builder's process: `wanexport.tensorrt.worker`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from plangraphs import save_graph
from studies import FLF2V, I2V, I2V_14B, OTHER_SIZES, SIZE, T2V

from wanexport.errors import BuildError
from wanexport.model.config import Architecture, Size
from wanexport.tensorrt.builder import build_plan
from wanexport.tensorrt.protocol import BuilderJob, Finished

SIZE_480P = Size(width=832, height=480, frames=81)
SIZE_720P = Size(width=1280, height=720, frames=81)


def parse(job: BuilderJob) -> dict[str, int]:
    return build_plan(job, lambda _: None).layers


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("mode", ["full", "separate", "swappable"])
def test_every_mode_and_dtype(mode: str, dtype: str, tmp_path: Path) -> None:
    job, _ = save_graph(tmp_path, I2V, SIZE, dtype, mode)
    layers = parse(job)
    assert layers[f"ATTENTION_INPUT {dtype}"] == 3 * I2V.num_layers
    assert layers["NORMALIZATION fp32"] == sum(
        count for name, count in layers.items() if name.startswith("NORMALIZATION")
    )
    assert layers["ROTARY_EMBEDDING fp32"] == 2 * I2V.num_layers
    matrices = {name for name in layers if name.startswith("MATRIX_MULTIPLY")}
    assert matrices == {f"MATRIX_MULTIPLY {dtype}", "MATRIX_MULTIPLY fp32"}


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        (I2V, SIZE_480P),
        (I2V, SIZE_720P),
        (I2V, SIZE.model_copy(update={"batch": 2})),
        (T2V, SIZE_480P),
        (FLF2V, SIZE_720P),
    ],
    ids=["i2v-480p", "i2v-720p", "i2v-batch", "t2v", "flf2v"],
)
def test_every_architecture_and_size(arch: Architecture, size: Size, tmp_path: Path) -> None:
    job, _ = save_graph(tmp_path, arch, size, "bf16", "separate")
    attentions = (3 if arch.image_dim else 2) * arch.num_layers
    assert parse(job)["ATTENTION_INPUT bf16"] == attentions


@pytest.mark.parametrize("mode", ["full", "swappable"])
def test_a_dynamic_graph_takes_a_profile_per_workload(mode: str, tmp_path: Path) -> None:
    job, _ = save_graph(tmp_path, I2V, SIZE, "bf16", mode, also=OTHER_SIZES)
    assert len(job.profiles) == 1 + len(OTHER_SIZES)
    assert parse(job)["ATTENTION_INPUT bf16"] == 3 * I2V.num_layers


@pytest.mark.parametrize("mode", ["full", "separate", "swappable"])
def test_the_14b_model_with_its_weights_mapped(mode: str, tmp_path: Path) -> None:
    job, _ = save_graph(tmp_path, I2V_14B, SIZE_480P, "bf16", mode, rank=32)
    assert (tmp_path / "weights.bin").stat().st_size > 32e9
    layers = parse(job.model_copy(update={"memory_limit": 1 << 30}))
    assert layers["ATTENTION_INPUT bf16"] == 120
    assert layers["ROTARY_EMBEDDING fp32"] == 80


class TestAGraphThatIsNotWhatTheManifestSays:
    @pytest.fixture
    def job(self, tmp_path: Path) -> BuilderJob:
        return save_graph(tmp_path, T2V, SIZE, "bf16", "full")[0]

    def refused(self, job: BuilderJob, **changes: object) -> str:
        with pytest.raises(BuildError) as caught:
            build_plan(job.model_copy(update=changes), lambda _: None)
        return str(caught.value)

    def test_another_dtype(self, job: BuilderJob) -> None:
        said = self.refused(job, dtypes=job.dtypes | {"hidden_states": "fp16"})
        assert said == "TensorRT reads hidden_states as DataType.BF16"

    def test_attention_that_came_apart(self, job: BuilderJob) -> None:
        said = self.refused(job, attentions=5)
        assert said == "TensorRT sees 4 attention layers instead of 5"

    def test_weights_of_another_name(self, job: BuilderJob) -> None:
        said = self.refused(job, refittable=("blocks.0.attn1.to_q.weights",))
        assert said == "TensorRT knows no weights blocks.0.attn1.to_q.weights"

    def test_no_graph_at_all(self, job: BuilderJob, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"no graph")
        assert self.refused(job).startswith("TensorRT can't parse model.onnx: ")


def test_parsing_writes_nothing(tmp_path: Path) -> None:
    job, _ = save_graph(tmp_path, T2V, SIZE, "bf16", "full")
    before = sorted(tmp_path.iterdir())
    assert isinstance(build_plan(job, lambda _: None), Finished)
    assert sorted(tmp_path.iterdir()) == before
