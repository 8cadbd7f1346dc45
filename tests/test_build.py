"""What `wanexport build` makes of its sources: which engines, of which bytes, and when again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import wanexport, wanrt, write_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from studies import I2V, OTHER_SIZES, SIZE, build, config

from wanexport.build import Built
from wanexport.config import Config
from wanexport.errors import BuildError
from wanexport.islands import computes_in_fp32
from wanexport.names import module_shapes
from wanexport.request import LoraArgument
from wanexport.synthetic import write_checkpoint
from wanrt.engine import load_engine
from wanrt.inputs import make_inputs
from wanrt.manifest import read_manifest

RANK = 4
MODES = ("full", "merged", "separate", "swappable")
Q = "blocks.0.attn2.to_q"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints to build from; tests that change one copy it."""
    root = tmp_path_factory.mktemp("sources")
    write_checkpoint(root / "base", I2V, "fp32", 0, shard_bytes=1 << 20)
    write_checkpoint(root / "finetuned", I2V, "fp32", 1)
    write_checkpoint(root / "original", I2V, "fp32", 0, layout="original")
    write_lora(root / "style.safetensors")
    return root


def write_lora(path: Path, seed: int = 0, rank: int = RANK) -> Path:
    """Write an adapter of one module with an alpha of half its rank."""
    generator = torch.Generator().manual_seed(seed)
    width = I2V.width
    tensors = {
        f"transformer.{Q}.lora_A.weight": torch.randn(rank, width, generator=generator),
        f"transformer.{Q}.lora_B.weight": torch.randn(width, rank, generator=generator),
        f"transformer.{Q}.alpha": torch.tensor(rank / 2),
    }
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Path:
    """Four engines of one base, linked; tests only read them."""
    out = tmp_path_factory.mktemp("study")
    build(out, ranks=(RANK,), base=str(sources / "base"), verify=False)
    return out


def engines(out: Path) -> dict[str, Path]:
    return {
        read_manifest(folder).mode: folder
        for folder in sorted(out.iterdir())
        if not folder.name.startswith(".")
    }


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return every file with its inode, size and mtime."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def own_bytes(folder: Path) -> int:
    """Return what a folder's files take that nothing else links to."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample(folder: Path) -> np.ndarray:
    with load_engine(folder) as engine:
        (workload,) = engine.manifest.workloads.values()
        return engine.forward(**make_inputs(engine.manifest, workload, seed=0))["sample"]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Return an engine's tensors by the names of its files."""
    tensors = {}
    for path in sorted((folder / "weights").iterdir()):
        tensors.update(load_file(path))
    return tensors


class TestReuse:
    def test_the_second_build_makes_nothing(self, sources: Path, tmp_path: Path) -> None:
        first = build(tmp_path, ranks=(RANK,), base=str(sources / "base"), verify=False)
        before = snapshot(tmp_path)
        again = build(tmp_path, ranks=(RANK,), base=str(sources / "base"), verify=False)
        assert snapshot(tmp_path) == before
        assert [b.plan.action for b in first] == ["build"] * 4
        assert [b.plan.action for b in again] == ["reuse"] * 4
        assert all(b.verification is None for b in again)

    def test_what_is_missing_is_added(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), verify=False)
        before = snapshot(engines(tmp_path)["full"])
        made = build(tmp_path, modes=("full", "merged"), ranks=(RANK,), verify=False)
        assert [b.plan.action for b in made] == ["reuse", "build"]
        assert snapshot(engines(tmp_path)["full"]) == before

    def test_a_copy_of_the_base_is_the_same_base(self, sources: Path, tmp_path: Path) -> None:
        shutil.copytree(sources / "base", tmp_path / "moved")
        for base in (sources / "base", tmp_path / "moved"):
            made = build(tmp_path / "e", modes=("full",), base=str(base), verify=False)
        assert made[0].plan.action == "reuse"

    def test_a_verified_engine_serves_whoever_asks_for_less(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",))
        assert build(tmp_path, modes=("full",), verify=False)[0].plan.action == "reuse"

    def test_an_unverified_engine_is_verified_by_force(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), verify=False)
        with pytest.raises(BuildError, match="verified was False, is True") as caught:
            build(tmp_path, modes=("full",))
        assert "--force" in caught.value.hint
        build(tmp_path, modes=("full",), force=True)
        manifest = read_manifest(engines(tmp_path)["full"])
        assert manifest.verification.method == "blocks"


class TestConflict:
    @pytest.fixture
    def out(self, sources: Path, tmp_path: Path) -> Path:
        """An engine of an adapter that lies where a test can change it."""
        lora = shutil.copy(sources / "style.safetensors", tmp_path / "style.safetensors")
        self.again = lambda **changes: build(
            tmp_path / "out",
            **{
                "modes": ("separate",),
                "loras": (LoraArgument(str(lora)),),
                "base": str(sources / "base"),
                "verify": False,
            }
            | changes,
        )
        self.lora = Path(lora)
        self.again()
        return tmp_path / "out"

    def refused(self, out: Path, why: str, **changes: object) -> None:
        """The build is refused for a reason and changes nothing; with force it replaces."""
        before = snapshot(out)
        with pytest.raises(BuildError, match=f"is there already, and .*{why}") as caught:
            self.again(**changes)
        assert "--force" in caught.value.hint
        assert snapshot(out) == before
        (built,) = self.again(**changes, force=True)
        assert built.plan.action == "replace"
        assert self.again(**changes)[0].plan.action == "reuse"
        assert wanrt("verify", out).code == 0
        assert [p.name for p in out.iterdir() if p.suffix == ".draft"] == []

    def test_a_lora_edited_in_place(self, out: Path) -> None:
        before = sample(engines(out)["separate"])
        write_lora(self.lora, seed=1)
        self.refused(out, "made from another adapter")
        assert not np.array_equal(sample(engines(out)["separate"]), before)

    @pytest.mark.parametrize("strength", [0.5, 1.0000001])
    def test_another_strength(self, out: Path, strength: float) -> None:
        self.refused(out, "another adapter", loras=(LoraArgument(str(self.lora), strength),))

    def test_another_base(self, out: Path, sources: Path) -> None:
        self.refused(out, "made from another base", base=str(sources / "finetuned"))

    def test_copied_weights(self, out: Path) -> None:
        self.refused(out, "weights was link, is copy", copy=True)

    def test_another_release_of_a_tool(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(package: str) -> str:
            return "99" if package == "onnxscript" else "1"

        monkeypatch.setattr("wanexport.plan.metadata.version", version)
        monkeypatch.setattr("wanexport.plan.TOOLS", ("onnxscript",))
        self.refused(out, "onnxscript was .*, is 99")

    def test_another_configuration_of_the_same_name(self, out: Path, sources: Path) -> None:
        other = config().model_copy(
            update={"architecture": I2V.model_copy(update={"ffn_dim": 256})}
        )
        path = write_config(sources / "other.toml", other)
        outcome = wanexport(
            "build", "--config", path, "--base", "random", "--lora", self.lora,
            "--mode", "separate", "--out", out, "--verify", "none",
        )  # fmt: skip
        assert outcome.code == 1
        assert "made from another config" in outcome.err

    def test_a_file_of_the_engine_is_gone(self, out: Path) -> None:
        (engines(out)["separate"] / "model.onnx").unlink()
        self.refused(out, "model.onnx is missing")

    def test_somebody_wrote_over_the_weights(self, out: Path) -> None:
        path = engines(out)["separate"] / "weights" / "adapter.safetensors"
        path.write_bytes(path.read_bytes())
        self.refused(out, "somebody wrote over these bytes")

    def test_a_folder_that_is_no_engine(self, out: Path) -> None:
        folder = engines(out)["separate"]
        shutil.rmtree(folder)
        folder.mkdir()
        self.refused(out, "is not an engine folder")

    def test_a_file_in_the_engines_place(self, out: Path) -> None:
        folder = engines(out)["separate"]
        shutil.rmtree(folder)
        folder.write_text("mine")
        self.refused(out, "is a file, not an engine folder")

    def test_a_dangling_link_in_the_engines_place(self, out: Path) -> None:
        folder = engines(out)["separate"]
        shutil.rmtree(folder)
        folder.symlink_to(out / "nowhere")
        self.refused(out, "is not an engine folder")

    def test_a_link_to_another_folder_is_replaced_not_followed(self, out: Path) -> None:
        folder = engines(out)["separate"]
        kept = folder.rename(out.parent / "elsewhere")
        folder.symlink_to(kept)
        (built,) = self.again(force=True)
        assert built.path.is_dir()
        assert not built.path.is_symlink()
        assert read_manifest(kept).mode == "separate"


class TestSharing:
    def test_engines_of_one_base_are_its_bytes(self, study: Path, sources: Path) -> None:
        for shard in (sources / "base").glob("*.safetensors"):
            links = list(study.glob(f"tiny-*/weights/base-{shard.name}"))
            assert {link.stat().st_ino for link in links} == {shard.stat().st_ino}
            assert shard.stat().st_nlink >= 1 + len(links)
        assert len(list(study.glob("tiny-*/weights/base-*"))) >= len(MODES)

    @pytest.mark.parametrize("mode", ["full", "separate", "swappable"])
    def test_a_base_costs_no_disk(self, mode: str, study: Path) -> None:
        folder = engines(study)[mode]
        expected = sum(
            path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("base-")
        )
        assert own_bytes(folder) == expected
        manifest = read_manifest(folder)
        adapter = sum(w.bytes for w in manifest.weights if w.origin == "adapter")
        adapter += sum(a.bytes for a in manifest.adapters)
        constants = sum(w.bytes for w in manifest.weights if w.origin == "constants")
        graph = manifest.forward.bytes + (folder / "engine.json").stat().st_size
        assert own_bytes(folder) == adapter + constants + graph
        pair = 2 * I2V.width * RANK * 4
        modules = 6 * I2V.num_layers
        assert (adapter > 0) == (mode != "full")
        assert adapter < 1.25 * pair * modules

    def test_a_merged_engine_writes_what_it_changed(self, study: Path) -> None:
        merged = load_file(engines(study)["merged"] / "weights" / "merged.safetensors")
        assert len(merged) == 6 * I2V.num_layers
        assert all("attn2" in name for name in merged)
        assert all(computes_in_fp32(name) is False for name in merged)

    def test_every_tensor_is_there_once(self, study: Path) -> None:
        for folder in engines(study).values():
            assert set(module_shapes(I2V)) <= set(stored(folder))

    def test_the_made_base_is_shared_too(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full", "separate"), ranks=(RANK,), verify=False)
        inodes = {path.stat().st_ino for path in tmp_path.glob("tiny-*/weights/base-*")}
        made = {path.stat().st_ino for path in (tmp_path / ".made").rglob("*.safetensors")}
        assert inodes <= made


class TestPool:
    def build(self, out: Path, sources: Path, **options: object) -> list[Built]:
        return build(out, base=str(sources / "original"), verify=False, **options)

    def pooled(self, out: Path) -> list[Path]:
        return sorted((out / ".weights").glob("*.safetensors"))

    def test_a_cast_checkpoint_is_written_once(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("merged",), ranks=(RANK,))
        (first,) = self.pooled(tmp_path)
        inode = first.stat().st_ino
        self.build(tmp_path, sources, dtype="bf16", ranks=(RANK,))
        (pool,) = self.pooled(tmp_path)
        source = next((sources / "original").glob("*.safetensors"))
        assert pool.name == f"{sha256(source)}-bf16.safetensors"
        assert pool.stat().st_ino == inode
        folders = [path for path in tmp_path.iterdir() if path.name.startswith("tiny")]
        assert len(folders) == 4
        assert pool.stat().st_nlink == 1 + len(folders)
        for folder in folders:
            manifest = read_manifest(folder)
            storages = {w.file: w.storage for w in manifest.weights if w.origin == "base"}
            assert storages[f"weights/base-{pool.name}"] == "pool"
            assert storages[f"weights/base-{source.name}"] == "hardlink"
        assert wanrt("verify", tmp_path).code == 0

    def test_islands_stay_where_they_are(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("full",))
        with safe_open(self.pooled(tmp_path)[0], "pt") as file:
            names = set(file.keys())
            assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}
        with safe_open(next((sources / "original").glob("*.safetensors")), "pt") as file:
            fp32 = set(file.keys()) - names
        assert {"time_embedding.0.weight", "blocks.0.modulation", "head.modulation"} <= fp32
        assert {"blocks.0.norm3.weight", "blocks.1.self_attn.norm_q.weight"} <= fp32
        assert names.isdisjoint(fp32)
        assert "blocks.0.self_attn.q.weight" in names
        assert "time_projection.1.weight" in names

    def test_cast_values_are_rounded_once(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("full",))
        source = load_file(next((sources / "original").glob("*.safetensors")))
        for name, tensor in load_file(self.pooled(tmp_path)[0]).items():
            assert torch.equal(tensor, source[name].bfloat16())

    def test_what_no_engine_links_to_is_swept(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("full", "separate"), ranks=(RANK,))
        shutil.rmtree(engines(tmp_path)["full"])
        self.build(tmp_path, sources, dtype="fp32", modes=("merged",), ranks=(RANK,))
        assert len(self.pooled(tmp_path)) == 1
        shutil.rmtree(engines(tmp_path)["separate"])
        self.build(tmp_path, sources, dtype="fp32", modes=("merged",), ranks=(RANK,))
        assert self.pooled(tmp_path) == []

    def test_what_killed_builds_left_is_swept(self, sources: Path, tmp_path: Path) -> None:
        for folder in (".weights", ".made"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / ".x.safetensors.1.tmp").write_bytes(b"half")
        self.build(tmp_path, sources, modes=("full",))
        assert list(tmp_path.glob(".*/.*.tmp")) == []

    def test_another_file_system_gets_one_copy(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from wanexport.links import place_file

        def place(source: Path, target: Path, **how: bool) -> str | None:
            near = source.is_relative_to(tmp_path)
            return place_file(source, target, **how) if near else None

        monkeypatch.setattr("wanexport.weights.place_file", place)
        self.build(tmp_path, sources, ranks=(RANK,))
        (pool,) = self.pooled(tmp_path)
        source = next((sources / "original").glob("*.safetensors"))
        assert pool.read_bytes() == source.read_bytes()
        assert pool.stat().st_ino != source.stat().st_ino
        assert pool.stat().st_nlink == 1 + len(MODES)
        assert wanrt("verify", tmp_path).code == 0

    def test_a_file_system_without_links_gets_copies(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wanexport.weights.place_file", lambda *_, **__: None)
        self.build(tmp_path, sources, modes=("full",))
        manifest = read_manifest(engines(tmp_path)["full"])
        assert {w.storage for w in manifest.weights if w.origin == "base"} == {"copy"}
        assert wanrt("verify", tmp_path).code == 0


class TestCopy:
    def test_engines_outlive_their_sources_and_move(self, sources: Path, tmp_path: Path) -> None:
        shutil.copytree(sources / "original", tmp_path / "base")
        out = tmp_path / "out"
        options = {"base": str(tmp_path / "base"), "ranks": (RANK,), "verify": False}
        build(out, copy=True, **options)
        build(tmp_path / "linked", **options)
        shutil.rmtree(tmp_path / "base")
        assert list((out / ".weights").glob("*.safetensors")) == []
        linked = engines(tmp_path / "linked")
        for mode, folder in engines(out).items():
            moved = tmp_path / "moved" / folder.name
            shutil.copytree(folder, moved, copy_function=shutil.copyfile)
            shutil.rmtree(folder)
            manifest = read_manifest(moved)
            assert {w.storage for w in manifest.weights} == {"copy"}
            assert np.array_equal(sample(moved), sample(linked[mode]))
        assert wanrt("verify", tmp_path / "moved").code == 0

    def test_a_copy_holds_only_what_the_engine_reads(self, sources: Path, tmp_path: Path) -> None:
        build(
            tmp_path, dtype="bf16", modes=("merged",), ranks=(RANK,), copy=True, verify=False,
            base=str(sources / "original"),
        )  # fmt: skip
        folder = engines(tmp_path)["merged"]
        files = {p.name: set(load_file(p)) for p in (folder / "weights").iterdir()}
        parameters = files["base.safetensors"] | files["merged.safetensors"]
        assert parameters == set(module_shapes(I2V))
        assert files["base.safetensors"].isdisjoint(files["merged.safetensors"])


class TestFinetuned:
    def test_the_full_engine_carries_it(self, sources: Path, tmp_path: Path, study: Path) -> None:
        build(
            tmp_path, ranks=(RANK,), verify=False,
            base=str(sources / "base"), finetuned=str(sources / "finetuned"),
        )  # fmt: skip
        found = {mode: read_manifest(folder) for mode, folder in engines(tmp_path).items()}
        assert {mode: m.full_finetune for mode, m in found.items()} == {
            "full": True, "merged": False, "separate": False, "swappable": False,
        }  # fmt: skip
        assert {w.origin for w in found["full"].weights} == {"finetuned", "constants"}
        mine, theirs = engines(tmp_path), engines(study)
        assert not np.array_equal(sample(mine["full"]), sample(theirs["full"]))
        for mode in MODES[1:]:
            assert np.array_equal(sample(mine[mode]), sample(theirs[mode]))

    def test_without_it_the_full_engine_is_the_base(self, study: Path) -> None:
        manifest = read_manifest(engines(study)["full"])
        assert not manifest.full_finetune
        assert {w.origin for w in manifest.weights} == {"base", "constants"}

    def test_full_and_merged_share_one_graph(self, study: Path) -> None:
        graphs = []
        for mode in ("full", "merged"):
            import onnx

            model = onnx.load(engines(study)[mode] / "model.onnx", load_external_data=False)
            graphs.append([(n.op_type, tuple(n.input)) for n in model.graph.node])
        assert graphs[0] == graphs[1]


class TestMerged:
    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_is_the_pristine_weight_and_the_adapter_rounded_once(
        self, dtype: str, sources: Path, tmp_path: Path
    ) -> None:
        lora = LoraArgument(str(sources / "style.safetensors"), 0.5)
        build(
            tmp_path, dtype=dtype, modes=("merged",), loras=(lora,), verify=False,
            base=str(sources / "base"),
        )  # fmt: skip
        folder = engines(tmp_path)["merged"]
        merged = load_file(folder / "weights" / "merged.safetensors")
        assert list(merged) == [f"{Q}.weight"]
        pristine = {}
        for shard in (sources / "base").glob("*.safetensors"):
            pristine.update(load_file(shard))
        held = load_file(sources / "style.safetensors")
        a, b = (held[f"transformer.{Q}.lora_{half}.weight"] for half in "AB")
        scale = 0.5 * 0.5  # the strength, and alpha / rank: powers of two, so folding is exact
        expected = torch.addmm(pristine[f"{Q}.weight"], scale * b, a)
        wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        assert torch.equal(merged[f"{Q}.weight"], expected.to(wanted))


class TestManifest:
    def test_names_its_sources_by_content(self, study: Path, sources: Path) -> None:
        shards = {str(p): sha256(p) for p in (sources / "base").glob("*.safetensors")}
        adapter = study / ".made" / f"tiny-lora-r{RANK}-seed0.safetensors"
        for mode, folder in engines(study).items():
            found = {s.path: (s.sha256, s.strength) for s in read_manifest(folder).sources}
            expected: dict[str, tuple[str, float | None]] = {
                path: (digest, None) for path, digest in shards.items()
            }
            if mode != "full":
                expected[str(adapter)] = (sha256(adapter), 1.0)
            assert found == expected

    def test_hashes_its_files(self, study: Path) -> None:
        for folder in engines(study).values():
            manifest = read_manifest(folder)
            listed = {file.file for file in manifest.files} | {"engine.json"}
            there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
            assert there == listed
            for file in manifest.files:
                assert sha256(folder / file.file) == file.sha256
            for weights in manifest.weights:
                assert (folder / weights.file).stat().st_mtime_ns == weights.mtime_ns

    def test_says_how_it_was_made(self, study: Path) -> None:
        for mode, folder in engines(study).items():
            manifest = read_manifest(folder)
            assert Config.model_validate_json(json.dumps(manifest.config)) == config()
            assert manifest.random_weights
            assert manifest.verification.method == "none"
            assert manifest.inputs["mode"] == mode
            assert manifest.inputs["torch"] == torch.__version__.split("+")[0] or (
                manifest.inputs["torch"] == torch.__version__
            )
            assert (manifest.rank, manifest.max_rank) == {
                "full": (None, None), "swappable": (None, RANK),
            }.get(mode, (RANK, None))  # fmt: skip
            assert len(manifest.targets) == (0 if mode == "full" else 6 * I2V.num_layers)

    def test_wanrt_agrees(self, study: Path) -> None:
        outcome = wanrt("verify", study)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.endswith("4 engines ok\n")
        for folder in engines(study).values():
            assert wanrt("info", folder).code == 0

    def test_a_dynamic_engine_lists_every_workload(self, tmp_path: Path) -> None:
        (built,) = build(tmp_path, modes=("separate",), ranks=(RANK,), dynamic=True, verify=False)
        manifest = read_manifest(built.path)
        assert set(manifest.workloads) == {size.name for size in (SIZE, *OTHER_SIZES)}
        assert manifest.forward.inputs[0].shape == ("batch", 36, "frames", "height", "width")
        assert "dynamic" in built.path.name


class TestDisk:
    def free(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        monkeypatch.setattr(
            "wanexport.plan.shutil.disk_usage", lambda _: SimpleNamespace(free=count)
        )

    def test_too_small_a_disk_is_refused_before_anything(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.free(monkeypatch, 1000)
        with pytest.raises(BuildError, match=r"the build writes .* has .* free") as caught:
            build(tmp_path, ranks=(RANK,), base=str(sources / "base"), verify=False)
        assert "--out" in caught.value.hint
        assert engines(tmp_path) == {}

    def test_what_is_pooled_is_counted_once(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parameters = sum(int(np.prod(shape)) for shape in module_shapes(I2V).values())
        adapters = 4 * (64_000 * I2V.num_layers + 600_000) + 4_000_000
        self.free(monkeypatch, 2 * parameters + adapters)
        made = build(
            tmp_path, dtype="bf16", ranks=(RANK,), base=str(sources / "original"), verify=False
        )
        assert sum(b.plan.write_bytes for b in made) > 2 * 0.9 * parameters

    def test_the_estimate_is_near(self, sources: Path, tmp_path: Path) -> None:
        for built in build(
            tmp_path, modes=MODES[:3], ranks=(64,), base=str(sources / "base"), verify=False
        ):
            graph = (built.path / "model.onnx").stat().st_size
            rest = sum(
                w.bytes for w in read_manifest(built.path).weights if w.origin == "constants"
            )
            written = own_bytes(built.path) - graph - rest
            overhead = 64_000 * I2V.num_layers + 600_000
            assert written <= 1.05 * built.plan.write_bytes
            assert built.plan.write_bytes - overhead <= 1.05 * written


class TestDryRun:
    def run(self, sources: Path, out: Path, *flags: object) -> list[str]:
        path = write_config(sources / "tiny.toml", config())
        outcome = wanexport("build", "--config", path, "--out", out, "--dry-run", *flags)
        assert outcome.code == 0, outcome.err
        return outcome.out.splitlines()

    def test_writes_nothing(self, sources: Path, tmp_path: Path) -> None:
        out = tmp_path / "engines"
        lines = self.run(sources, out, "--rank", RANK, "--base", "random")
        assert not out.exists()
        assert lines[0] == "make 9.37 MB of random weights first"
        assert [line.split()[:2] for line in lines[1:-1]] == [
            ["build", "tiny-96x64x5-fp32-full"],
            ["build", "tiny-96x64x5-fp32-merged-r4"],
            ["build", "tiny-96x64x5-fp32-separate-r4"],
            ["build", "tiny-96x64x5-fp32-swappable"],
        ]
        assert all(line.endswith("  new") for line in lines[1:-1])
        assert lines[-1].startswith("writes ")

    def test_says_why_each_engine_is_or_isnt_reused(self, sources: Path, tmp_path: Path) -> None:
        base = ("--base", sources / "base", "--verify", "none")
        build(tmp_path, modes=("full",), base=str(sources / "base"), verify=False)
        build(tmp_path, modes=("merged",), base=str(sources / "base"), ranks=(RANK,), verify=False)
        before = snapshot(tmp_path)
        reuse, conflict, new, total = self.run(
            sources, tmp_path, *base, "--weights", "link", "--rank", RANK,
            "--mode", "full", "--mode", "merged", "--mode", "separate",
        )  # fmt: skip
        assert reuse.split()[0] == "reuse"
        assert "writes      0 B" in reuse
        assert reuse.endswith("made from the same")
        assert conflict.split()[0] == "reuse"
        assert new.split()[0] == "build"
        lines = self.run(sources, tmp_path, *base, "--weights", "copy", "--mode", "full")
        assert lines[0].split()[0] == "conflict"
        assert lines[0].endswith("weights was link, is copy")
        lines = self.run(sources, tmp_path, *base, "--weights", "copy", "--mode", "full", "--force")
        assert lines[0].split()[0] == "replace"
        assert snapshot(tmp_path) == before
        assert total.startswith("writes ")
