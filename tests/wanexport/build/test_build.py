"""What `wanexport build` makes of its sources: which engines, and when again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import folders
import hubcache
import numpy as np
import onnx
import pytest
import torch
from commands import wanexport, wanrt, write_config
from folders import MODES, RANK, Q, engines, sample, sha256, snapshot, write_lora
from hubcache import add_files
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from studies import I2V, OTHER_SIZES, SIZE, build, config

from wanexport.build.recipe import Built
from wanexport.errors import BuildError, VerificationError
from wanexport.lora.canonical import write_adapter
from wanexport.lora.find import LoraArgument
from wanexport.model.config import Config
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.read import read_manifest

sources, study, hub = folders.sources, folders.study, hubcache.hub  # fixtures


class TestVerification:
    def test_a_swappable_engine_is_verified_with_every_adapter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def halve_the_narrow_one(
            adapters: object, path: Path, *args: object, **kwargs: object
        ) -> int:
            rank = write_adapter(adapters, path, *args, **kwargs)  # type: ignore[arg-type]
            if rank == 2:
                with safe_open(path, "pt") as file:
                    metadata = file.metadata()
                halved = {name: tensor / 2 for name, tensor in load_file(path).items()}
                save_file(halved, path, metadata=metadata)
            return rank

        build(tmp_path / "sound", modes=("swappable",), ranks=(2, 4))
        monkeypatch.setattr("wanexport.build.contents.write_adapter", halve_the_narrow_one)
        with pytest.raises(VerificationError, match="the engine's outputs are off by"):
            build(tmp_path / "e", modes=("swappable",), ranks=(2, 4))
        assert not engines(tmp_path / "e")

    def test_without_it_linked_weights_are_not_read_and_that_is_said(
        self, sources: Path, tmp_path: Path
    ) -> None:
        base = tmp_path / "base"
        shutil.copytree(sources / "finetuned", base)
        (file,) = base.glob("*.safetensors")
        tensors = load_file(file)
        tensors[f"{Q}.weight"][0, 0] = float("nan")
        save_file(tensors, file)
        flags = ("--config", write_config(tmp_path / "tiny.toml", config()), "--mode", "full")
        sources_of = ("--base", base, "--out", tmp_path / "engines")
        found = wanexport("build", *flags, *sources_of)
        assert found.code == 1
        assert f"{Q}.weight holds NaN or infinity" in found.err
        found = wanexport("build", *flags, *sources_of, "--verify", "none")
        assert found.code == 0
        assert "unverified: outputs not compared, linked weights not read" in found.out
        (folder,) = engines(tmp_path / "engines").values()
        told = " ".join(wanrt("info", folder).out.split())
        assert "linked weights weren't read, and may hold NaN" in told
        elsewhere = ("--base", base, "--out", tmp_path / "copies")
        found = wanexport("build", *flags, *elsewhere, "--verify", "none", "--weights", "copy")
        assert found.code == 1
        assert f"{Q}.weight holds NaN or infinity" in found.err


class TestReuse:
    def test_the_second_build_makes_nothing(self, sources: Path, tmp_path: Path) -> None:
        first = build(tmp_path, ranks=(RANK,), base=str(sources / "base"), verify=False)
        before = snapshot(tmp_path)
        again = build(tmp_path, ranks=(RANK,), base=str(sources / "base"), verify=False)
        assert snapshot(tmp_path) == before
        assert [b.target.action for b in first] == ["build"] * 4
        assert [b.target.action for b in again] == ["reuse"] * 4
        assert all(b.verification is None for b in again)

    def test_what_is_missing_is_added(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), verify=False)
        before = snapshot(engines(tmp_path)["full"])
        made = build(tmp_path, modes=("full", "merged"), ranks=(RANK,), verify=False)
        assert [b.target.action for b in made] == ["reuse", "build"]
        assert snapshot(engines(tmp_path)["full"]) == before

    def test_a_copy_of_the_base_is_the_same_base(self, sources: Path, tmp_path: Path) -> None:
        shutil.copytree(sources / "base", tmp_path / "moved")
        for base in (sources / "base", tmp_path / "moved"):
            made = build(tmp_path / "e", modes=("full",), base=str(base), verify=False)
        assert made[0].target.action == "reuse"

    def test_a_verified_engine_serves_whoever_asks_for_less(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",))
        assert build(tmp_path, modes=("full",), verify=False)[0].target.action == "reuse"

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
        settings: dict[str, Any] = {
            "modes": ("separate",),
            "loras": (LoraArgument(str(lora)),),
            "base": str(sources / "base"),
            "verify": False,
        }

        def again(**changes: Any) -> list[Built]:
            return build(tmp_path / "out", **(settings | changes))

        self.again = again
        self.lora = Path(lora)
        self.again()
        return tmp_path / "out"

    def refused(self, out: Path, why: str, **changes: object) -> None:
        """The build is refused for a reason and changes nothing; with force it replaces."""
        before = snapshot(out)
        with pytest.raises(BuildError, match=f"already exists: .*{why}") as caught:
            self.again(**changes)
        assert "--force" in caught.value.hint
        assert snapshot(out) == before
        (built,) = self.again(**changes, force=True)
        assert built.target.action == "replace"
        assert self.again(**changes)[0].target.action == "reuse"
        assert wanrt("verify", out).code == 0
        assert [p.name for p in out.iterdir() if p.suffix == ".draft"] == []

    def test_a_lora_edited_in_place(self, out: Path) -> None:
        before = sample(engines(out)["separate"])
        write_lora(self.lora, seed=1)
        self.refused(out, "built from another adapter")
        assert not np.array_equal(sample(engines(out)["separate"]), before)

    @pytest.mark.usefixtures("out")
    def test_another_strength_is_another_engine(self) -> None:
        (built,) = self.again(loras=(LoraArgument(str(self.lora), 0.5),))
        assert built.path.name.endswith("-style-x0.5")

    def test_another_maximum_rank_is_another_engine(self, out: Path) -> None:
        for max_rank, named in ((None, RANK), (12, 12), (RANK, RANK)):
            (built,) = self.again(modes=("swappable",), max_rank=max_rank)
            assert built.path.name.endswith(f"-swappable-r{named}-style")
            manifest = read_manifest(built.path)
            assert manifest.max_rank == named
            (adapter,) = manifest.adapters
            assert (adapter.file, adapter.rank) == (f"adapters/r{RANK}-style.safetensors", RANK)
        assert built.target.action == "reuse"
        assert len(list(out.glob("*swappable-r*"))) == 2

    @pytest.mark.usefixtures("out")
    def test_another_strength_of_the_same_digits(self) -> None:
        self.again(loras=(LoraArgument(str(self.lora), 0.5),))
        nearly = (LoraArgument(str(self.lora), 0.50000001),)
        with pytest.raises(BuildError, match="another adapter"):
            self.again(loras=nearly)

    def test_another_base(self, out: Path, sources: Path) -> None:
        self.refused(out, "built from another base", base=str(sources / "finetuned"))

    def test_copied_weights(self, out: Path) -> None:
        self.refused(out, "weights was link, is copy", copy=True)

    def test_another_release_of_a_tool(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(package: str) -> str:
            return "99" if package == "onnxscript" else "1"

        monkeypatch.setattr("wanexport.build.reuse.metadata.version", version)
        monkeypatch.setattr("wanexport.build.reuse.TOOLS", ("onnxscript",))
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
        assert "built from another config" in outcome.err

    def test_a_file_of_the_engine_is_gone(self, out: Path) -> None:
        (engines(out)["separate"] / "model.onnx").unlink()
        self.refused(out, "model.onnx is missing")

    def test_somebody_wrote_over_the_weights(self, out: Path) -> None:
        path = engines(out)["separate"] / "weights" / "adapter.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        self.refused(out, "its bytes are not the recorded ones")

    @pytest.mark.parametrize("there", ["folder", "file", "dangling link"])
    @pytest.mark.parametrize("force", [True, False])
    def test_what_is_no_engine_is_never_replaced(self, force: bool, there: str, out: Path) -> None:
        folder = engines(out)["separate"]
        shutil.rmtree(folder)
        if there == "folder":
            folder.mkdir()
        elif there == "file":
            folder.write_text("mine")
        else:
            folder.symlink_to(out / "nowhere")
        before = folder.lstat().st_ino
        with pytest.raises(BuildError, match="can't be replaced, even with --force"):
            self.again(force=force)
        assert folder.lstat().st_ino == before

    def test_a_link_to_another_folder_is_not_replaced(self, out: Path) -> None:
        folder = engines(out)["separate"]
        kept = folder.rename(out.parent / "elsewhere")
        folder.symlink_to(kept)
        with pytest.raises(BuildError, match="it isn't a folder"):
            self.again(force=True)
        assert folder.is_symlink()
        assert read_manifest(kept).mode == "separate"

    def test_force_keeps_what_no_manifest_names(self, out: Path) -> None:
        mine = engines(out)["separate"] / "notes.txt"
        mine.write_text("mine")
        with pytest.raises(BuildError, match=r"doesn't name notes\.txt"):
            self.again(force=True)
        assert mine.read_text() == "mine"


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

    def test_alone_it_needs_no_base(self, sources: Path, hub: Path, tmp_path: Path) -> None:
        """A repository of the hub's cache is named as one; nothing else is opened or made."""
        (file,) = (sources / "finetuned").glob("*.safetensors")
        add_files(hub, "org/tuned", {f"transformer/{file.name}": file})
        flags = ("--config", write_config(tmp_path / "tiny.toml", config()), "--verify", "none")
        out = tmp_path / "engines"
        done = wanexport(
            "build", *flags, "--mode", "full", "--finetuned", "org/tuned", "--out", out
        )
        assert (done.code, done.err.count("random")) == (0, 0), done.err
        assert not (out / ".made").exists()
        manifest = read_manifest(engines(out)["full"])
        assert manifest.full_finetune
        assert [source.sha256 for source in manifest.sources] == [sha256(file)]
        build(
            tmp_path / "local", modes=("full",), finetuned=str(sources / "finetuned"), verify=False
        )
        assert np.array_equal(
            sample(engines(out)["full"]), sample(engines(tmp_path / "local")["full"])
        )

    def test_full_and_merged_share_one_graph(self, study: Path) -> None:
        graphs = []
        for mode in ("full", "merged"):
            model = onnx.load(engines(study)[mode] / "model.onnx", load_external_data=False)
            graphs.append([(n.op_type, tuple(n.input)) for n in model.graph.node])
        assert graphs[0] == graphs[1]


def test_a_checkpoint_dated_before_1970(sources: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(sources / "finetuned", base)
    for file in base.iterdir():
        os.utime(file, ns=(-(10**18), -(10**18)))
    build(tmp_path / "out", modes=("full",), base=str(base))
    assert wanrt("verify", tmp_path / "out").code == 0


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

    def test_a_batch_holds_for_every_size_of_a_dynamic_engine(self, tmp_path: Path) -> None:
        made = config().model_copy(update={"dynamic_sizes": OTHER_SIZES})
        flags = ("--config", write_config(tmp_path / "tiny.toml", made), "--base", "random")
        modes = ("--mode", "full", "--mode", "swappable", "--rank", RANK)
        out = tmp_path / "engines"
        sized = ("--dynamic", "--batch", 2)
        assert wanexport("build", *flags, *modes, *sized, "--out", out).code == 0
        sizes = {size.model_copy(update={"batch": 2}).name for size in (SIZE, *OTHER_SIZES)}
        for folder in engines(out).values():
            manifest = read_manifest(folder)
            assert set(manifest.workloads) == sizes
            assert manifest.verification.method == "blocks"
            for size, workload in manifest.workloads.items():
                with load_engine(folder, workload=size) as engine:
                    inputs = make_inputs(manifest, workload, seed=0)
                    found = engine.forward(**inputs)["sample"]
                    assert len(found) == 2
                    for name, value in inputs.items():
                        inputs[name] = np.ascontiguousarray(value[::-1])
                    turned = engine.forward(**inputs)["sample"]
                    np.testing.assert_allclose(
                        turned[::-1].astype(float), found.astype(float), rtol=1e-4, atol=1e-5
                    )
