"""Plans of engines: real ones by TensorRT-RTX's builder, those that need a GPU by a fake one."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fakebuilder
import folders
import numpy as np
import pytest
import torch
from commands import wanexport
from folders import engines, snapshot
from studies import I2V, OTHER_SIZES, SIZE, build

from wanexport import trt_build
from wanexport.build import Built
from wanexport.errors import BuildError, ConfigError, VerificationError
from wanexport.trt_job import Job, Phase
from wanexport.trt_settings import PlanSettings, resolve_settings
from wanrt.engine import load_engine
from wanrt.manifest import Manifest, read_manifest
from wanrt.plan_file import PlanFile

sources = folders.sources  # a fixture

RTX = PlanSettings("tensorrt-rtx", capabilities=("8.9", "12.0"))


def manifests(out: Path) -> list[Manifest]:
    return [
        read_manifest(folder) for folder in sorted(out.iterdir()) if not folder.name.startswith(".")
    ]


def plan_of(manifest: Manifest) -> PlanFile:
    assert manifest.forward.plan is not None
    return manifest.forward.plan


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the fake builder in TensorRT's place; called with what it is to be like."""
    monkeypatch.setattr(trt_build, "WORKER", (sys.executable, fakebuilder.__file__))

    def be(**settings: object) -> None:
        trt_build.find_toolchain.cache_clear()
        monkeypatch.setenv("FAKE_BUILDER", json.dumps(settings))

    be()
    yield be
    trt_build.find_toolchain.cache_clear()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, planned for two GPUs in both dtypes; tests only read it."""
    out = tmp_path_factory.mktemp("plans")
    for dtype in ("fp16", "bf16"):
        code, _, said = wanexport(
            "build", "--rank", "8", "--backend", "tensorrt-rtx", "--compute-capability",
            "89,120", "--dtype", dtype, "--verify", "none", "--out", out,
        )  # fmt: skip
        assert code == 0, said
    return out


class TestRealPlans:
    def test_every_mode_in_both_dtypes(self, demo: Path) -> None:
        found = manifests(demo)
        assert {(m.mode, m.dtype) for m in found} == {
            (mode, dtype) for mode in folders.MODES for dtype in ("fp16", "bf16")
        }
        for manifest in found:
            plan = plan_of(manifest)
            assert manifest.backend == "tensorrt-rtx"
            assert (plan.refit, plan.weights, plan.swap, plan.gpu) == ("baked", {}, None, None)
            assert plan.compute_capabilities == ("8.9", "12.0")
            weights = manifest.weight_bytes
            assert weights < plan.bytes < 1.5 * weights

    def test_the_layers_are_described(self, demo: Path) -> None:
        for manifest in manifests(demo):
            told = json.loads((demo / manifest.name / "layers.json").read_text())
            assert told["network"][f"ATTENTION_INPUT {manifest.dtype}"] == 12
            assert told["engine"] is None  # read back on a GPU alone

    def test_nothing_is_built_twice(self, demo: Path) -> None:
        before = snapshot(demo)
        code, said, _ = wanexport(
            "build", "--rank", "8", "--backend", "tensorrt-rtx", "--compute-capability", "89,120",
            "--dtype", "fp16", "--verify", "none", "--out", demo,
        )  # fmt: skip
        assert code == 0
        assert said.count("there already, made from the same") == 4
        assert snapshot(demo) == before

    def test_a_deleted_engine_gets_its_plan_back(self, sources: Path, tmp_path: Path) -> None:
        options = {"modes": ("full", "separate"), "ranks": (4,), "dtype": "fp16", "plans": RTX}
        first = build(tmp_path, base=str(sources / "base"), verify=False, **options)
        inode = (first[0].path / "engine.plan").stat().st_ino
        twin = tmp_path / "twin.plan"
        os.link(first[0].path / "engine.plan", twin)  # or the pool would forget it
        for path in first[0].path.rglob("*"):
            path.unlink() if path.is_file() else None
        for path in (first[0].path / "weights", first[0].path):
            path.rmdir()
        again = build(tmp_path, base=str(sources / "base"), verify=False, **options)
        assert [b.plan.action for b in again] == ["build", "reuse"]
        assert (again[0].path / "engine.plan").stat().st_ino == inode

    def test_a_dynamic_engine_has_a_profile_per_workload(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), dtype="bf16", dynamic=True, plans=RTX, verify=False)
        (manifest,) = manifests(tmp_path)
        names = (SIZE.name, *(size.name for size in OTHER_SIZES))
        assert plan_of(manifest).profiles == names
        assert tuple(manifest.workloads) == names

    def test_fp32_attention_is_refused_and_can_be_allowed(self, tmp_path: Path) -> None:
        options = {"modes": ("full",), "dtype": "fp32", "verify": False}
        with pytest.raises(BuildError, match="no fused kernel") as caught:
            build(tmp_path, plans=RTX, **options)
        assert "--allow-unfused" in caught.value.hint
        assert not engines(tmp_path)
        assert not list((tmp_path / ".plans").glob("*.plan"))
        unfused = PlanSettings("tensorrt-rtx", capabilities=("8.9",), allow_unfused=True)
        assert build(tmp_path, plans=unfused, **options)[0].plan.action == "build"

    def test_an_engine_that_may_be_unfused_is_verified(self, tmp_path: Path) -> None:
        unfused = PlanSettings("tensorrt-rtx", capabilities=("8.9",), allow_unfused=True)
        made = build(tmp_path, modes=("full",), dtype="fp32", plans=unfused)
        assert made[0].verification is not None
        assert made[0].verification.error is not None

    @pytest.mark.parametrize("limit", [50, 150, 200])
    def test_too_little_memory(self, tmp_path: Path, limit: int) -> None:
        tight = PlanSettings("tensorrt-rtx", capabilities=("8.9",), memory_limit=limit << 20)
        with pytest.raises(BuildError, match=f"ran out of its memory of {limit} MiB"):
            build(tmp_path, modes=("full",), dtype="fp16", plans=tight, verify=False)
        assert not engines(tmp_path)

    def test_phases_are_told(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), dtype="fp16", plans=RTX, verify=False)
        (folder,) = engines(tmp_path).values()
        manifest = read_manifest(folder)
        job = Job(
            backend="tensorrt-rtx",
            model=str(folder / "model.onnx"),
            plan=str(tmp_path / "again.plan"),
            refit="baked",
            capabilities=("8.9",),
            dtypes={s.name: s.dtype for s in (*manifest.forward.inputs, *manifest.forward.outputs)},
            attentions=3 * I2V.num_layers,
        )
        told: list[Phase] = []
        trt_build.build_plan(job, told.append)
        assert told[0].name == "Building engine"
        assert told[0].parent is None
        open_phases = {phase.name for phase in told} - {p.name for p in told if p.done >= p.steps}
        assert not open_phases


@pytest.mark.usefixtures("fake")
class TestWhereWeightsLive:
    """With a builder that has a GPU to say."""

    def names(self, plan: PlanFile) -> set[str]:
        return set(plan.weights)

    def test_all_shares_one_plan_between_full_and_merged(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        build(tmp_path, ranks=(8, 32, 128, 256), dtype="fp16", plans=settings, verify=False)
        keys: dict[str, set[str]] = {}
        for manifest in manifests(tmp_path):
            keys.setdefault(manifest.mode, set()).add(plan_of(manifest).key)
        assert keys["full"] == keys["merged"]
        assert [len(keys[mode]) for mode in folders.MODES] == [1, 1, 4, 1]
        assert len(set().union(*keys.values())) == 6
        plans = list((tmp_path / ".plans").glob("*.plan"))
        assert len(plans) == 7  # and one that merges, for the one shape of its matrices
        inodes = {(tmp_path / m.name / "engine.plan").stat().st_ino for m in manifests(tmp_path)}
        assert len(inodes) == 6

    def test_none_is_bound_to_the_very_bytes(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="none")
        options = {"modes": ("full", "merged"), "ranks": (8,), "dtype": "fp16", "plans": settings}
        build(tmp_path, verify=False, **options)
        full, merged = manifests(tmp_path)
        assert plan_of(full).key != plan_of(merged).key
        job = json.loads((tmp_path / full.name / "engine.plan").read_text())
        assert (job["refit"], job["refittable"]) == ("none", [])
        assert plan_of(full).swap is None

    def test_targets_frees_what_the_adapter_changes(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="targets")
        build(tmp_path, ranks=(8, 16), dtype="fp16", plans=settings, verify=False)
        found = {m.name.split("fp16-")[1].split("-tensorrt")[0]: m for m in manifests(tmp_path)}
        free = {
            name: set(json.loads((tmp_path / m.name / "engine.plan").read_text())["refittable"])
            for name, m in found.items()
        }
        adapted = {f"{module}.weight" for module in found["merged-r8"].targets}
        assert free["merged-r8"] == adapted
        assert free["full"] == free["swappable-r16"] == set()
        assert free["separate-r8"] == {
            f"{module}.{half}"
            for module in found["merged-r8"].targets
            for half in ("lora_A", "lora_B")
        }
        assert plan_of(found["merged-r8"]).key == plan_of(found["merged-r16"]).key
        assert plan_of(found["merged-r8"]).key != plan_of(found["full"]).key

    @pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
    def test_a_merged_engine_can_swap_in_place(
        self, sources: Path, tmp_path: Path, copy: bool
    ) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        build(
            tmp_path, modes=("merged",), ranks=(4, 8), dtype="fp16", plans=settings, verify=False,
            base=str(sources / "base"), copy=copy,
        )  # fmt: skip
        for manifest in manifests(tmp_path):
            swap = plan_of(manifest).swap
            assert swap is not None
            assert set(swap.base) == {f"{module}.weight" for module in manifest.targets}
            assert {spec.shape for spec in swap.inputs} == {(8, I2V.width), (I2V.width, 8)}
            assert {spec.dtype for spec in swap.inputs} == {"fp32"}
            (merge,) = swap.merges
            assert (merge.shape, merge.max_rank) == ((I2V.width, I2V.width), 8)
            merging = json.loads((tmp_path / manifest.name / merge.file).read_text())
            assert merging["dtypes"] == {
                "weight": "fp16", "merged": "fp16", "lora_A": "fp32", "lora_B": "fp32",
            }  # fmt: skip

    def test_its_pristine_weights_are_the_base(self, sources: Path, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options = {"dtype": "fp16", "plans": settings, "verify": False}
        build(tmp_path, modes=("full", "merged"), ranks=(4,), base=str(sources / "base"), **options)
        full, merged = manifests(tmp_path)
        swap = plan_of(merged).swap
        assert swap is not None
        for name, part in swap.base.items():
            own = plan_of(full).weights[name]
            assert self.read(tmp_path / merged.name, part) == self.read(tmp_path / full.name, own)
            now = plan_of(merged).weights[name]
            assert self.read(tmp_path / merged.name, now) != self.read(tmp_path / full.name, own)

    @staticmethod
    def read(folder: Path, part: object) -> bytes:
        with (folder / part.file).open("rb") as file:  # type: ignore[attr-defined]
            file.seek(part.offset)  # type: ignore[attr-defined]
            return file.read(part.bytes)  # type: ignore[attr-defined]

    def test_its_canonical_adapter_is_fp32(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        style = folders.write_lora(tmp_path / "style.safetensors")
        made = build(
            tmp_path / "e",
            modes=("merged",),
            ranks=(8,),
            dtype="fp16",
            plans=settings,
            verify=False,
        )
        out = tmp_path / "canonical.safetensors"
        code, said, problem = wanexport("adapter", style, "--for", made[0].path, "-o", out)
        assert (code, problem) == (0, "")
        assert said == f"saved {out} (rank 4)\n"
        from safetensors.numpy import load_file

        assert {t.dtype.name for t in load_file(out).values()} == {"float32"}


class Spoken:
    """An engine whose plan says what it is told to say."""

    def __init__(self, sample: Callable[..., np.ndarray]) -> None:
        self.sample = sample
        self.manifest = SimpleNamespace(dtype="fp16")
        self.swapped: list[Path] = []

    def __enter__(self) -> Spoken:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def swap(self, adapter: Path) -> None:
        self.swapped.append(adapter)

    def forward(self, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
        return {"sample": self.sample(**inputs)}


@pytest.mark.usefixtures("fake")
class TestAPlanIsRunOnItsGpu:
    """The plan's own output, here spoken by ONNX Runtime's engine of the same weights."""

    @pytest.fixture
    def honest(self, sources: Path, tmp_path: Path) -> Callable[..., np.ndarray]:
        made = build(
            tmp_path / "ort",
            modes=("full",),
            dtype="fp16",
            base=str(sources / "base"),
            verify=False,
        )
        return lambda **inputs: load_engine(made[0].path).forward(**inputs)["sample"]

    def build(self, sources: Path, out: Path, **options: object) -> list[Built]:
        settings = {"modes": ("full",), "dtype": "fp16", "plans": PlanSettings("tensorrt-rtx")}
        return build(out, base=str(sources / "base"), **(settings | options))

    def test_its_error_is_recorded(
        self, sources: Path, tmp_path: Path, honest: Callable[..., np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("wanexport.trt_verify.load_engine", lambda _, **__: Spoken(honest))
        self.build(sources, tmp_path / "e")
        (manifest,) = manifests(tmp_path / "e")
        error = manifest.verification.plan_error
        assert error is not None
        assert 0 < error < 0.01

    def test_every_adapter_is_tried(
        self, sources: Path, tmp_path: Path, honest: Callable[..., np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        spoken = Spoken(honest)
        monkeypatch.setattr("wanexport.trt_verify.load_engine", lambda _, **__: spoken)
        with pytest.raises(VerificationError, match="the plan's outputs are off by"):
            self.build(sources, tmp_path / "e", modes=("swappable",), ranks=(4, 8))
        assert [path.name for path in spoken.swapped] == ["r4.safetensors"]
        assert not engines(tmp_path / "e")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (np.zeros_like, "the plan's output is all zero"),
            (lambda sample: sample * np.float16(np.nan), "the plan's output isn't finite"),
            (lambda sample: sample * np.float16(1.1), "off by 0.1 .* though its graph's aren't"),
        ],
        ids=["zero", "nan", "off"],
    )
    def test_what_it_should_not_say(
        self,
        sources: Path,
        tmp_path: Path,
        honest: Callable[..., np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
        change: Callable[[np.ndarray], np.ndarray],
        said: str,
    ) -> None:
        spoken = Spoken(lambda **inputs: change(honest(**inputs)))
        monkeypatch.setattr("wanexport.trt_verify.load_engine", lambda _, **__: spoken)
        with pytest.raises(VerificationError, match=said):
            self.build(sources, tmp_path / "e")
        assert not engines(tmp_path / "e")


@pytest.mark.usefixtures("fake")
class TestTheTimingCacheAndTheControl:
    def test_tensorrt_builds_full_again_without_the_cache(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt", refit="none")
        build(
            tmp_path,
            modes=("full", "merged"),
            ranks=(4,),
            dtype="fp16",
            plans=settings,
            verify=False,
        )
        found = {m.name: m for m in manifests(tmp_path)}
        control = next(m for name, m in found.items() if name.endswith("-control"))
        full = found[control.name.removesuffix("-control")]
        assert plan_of(control).control
        assert not plan_of(full).control
        assert plan_of(control).key != plan_of(full).key
        told = {
            m.name: json.loads((tmp_path / m.name / "engine.plan").read_text())
            for m in found.values()
        }
        assert told[control.name]["timing_cache"] is None
        cache = Path(told[full.name]["timing_cache"])
        assert cache.name == "tensorrt-11.4.0.106-Fake-GPU.timing"
        assert cache.read_text() == "timings"

    def test_tensorrt_rtx_times_nothing_at_build(self, tmp_path: Path) -> None:
        build(
            tmp_path,
            modes=("full",),
            dtype="fp16",
            plans=PlanSettings("tensorrt-rtx"),
            verify=False,
        )
        assert len(manifests(tmp_path)) == 1


@pytest.mark.usefixtures("fake")
class TestWhatDecidesReuse:
    @pytest.mark.parametrize(
        ("refit", "same"), [("all", True), ("none", False), ("baked", False)], ids=str
    )
    def test_other_weights(self, sources: Path, tmp_path: Path, refit: str, same: bool) -> None:
        settings = PlanSettings("tensorrt-rtx", refit=refit)  # type: ignore[arg-type]
        keys = []
        for base in ("base", "finetuned"):
            made = build(
                tmp_path / base, modes=("full",), base=str(sources / base), dtype="fp16",
                plans=settings, verify=False,
            )  # fmt: skip
            keys.append(plan_of(read_manifest(made[0].path)).key)
        assert (keys[0] == keys[1]) is same

    @pytest.mark.parametrize(
        "machine",
        [{"library": "11.5.0.1"}, {"gpu": "Another GPU"}, {"capability": "9.0"}],
        ids=["library", "gpu", "capability"],
    )
    def test_another_machine(
        self, fake: Callable[..., None], tmp_path: Path, machine: dict[str, str]
    ) -> None:
        options = {"modes": ("full",), "dtype": "fp16", "verify": False}
        options["plans"] = PlanSettings("tensorrt", refit="none", control=False)
        build(tmp_path, **options)
        fake(**machine)
        with pytest.raises(BuildError, match="made from another backend") as caught:
            build(tmp_path, **options)
        assert "--force" in caught.value.hint

    def test_another_setting(self, tmp_path: Path) -> None:
        options = {"modes": ("full",), "dtype": "fp16", "verify": False}
        build(tmp_path, plans=PlanSettings("tensorrt-rtx"), **options)
        with pytest.raises(BuildError, match="made from another backend"):
            build(tmp_path, plans=PlanSettings("tensorrt-rtx", optimization_level=5), **options)


class TestRefusals:
    def test_stripped_plans_need_a_gpu(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all", capabilities=("8.9",))
        with pytest.raises(BuildError, match="can't be built without a GPU") as caught:
            build(tmp_path, modes=("full",), dtype="fp16", plans=settings)
        assert "--bake" in caught.value.hint
        assert not engines(tmp_path)

    def test_a_release_that_loses_biases(self, fake: Callable[..., None], tmp_path: Path) -> None:
        fake(library="11.3.0.9")
        with pytest.raises(ConfigError, match=r"11\.3\.0\.9 may lose a bias"):
            build(tmp_path, modes=("full",), plans=PlanSettings("tensorrt", refit="all"))
        build(
            tmp_path, modes=("full",), dtype="fp16", verify=False,
            plans=PlanSettings("tensorrt", refit="none", control=False),
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("fail", "said"),
        [
            ("crash", "TensorRT's builder crashed with SIGSEGV"),
            ("kill", "the builder was killed, for want of memory most likely"),
            ("mute", "the builder ended without a plan"),
            ("no such kernel", "no such kernel"),
        ],
    )
    def test_nothing_is_left_of_a_failed_build(
        self, fake: Callable[..., None], tmp_path: Path, fail: str, said: str
    ) -> None:
        fake(fail=fail)
        with pytest.raises(BuildError, match=said):
            build(
                tmp_path, modes=("full",), dtype="fp16", plans=PlanSettings("tensorrt-rtx"),
                verify=False,
            )  # fmt: skip
        assert not engines(tmp_path)
        kept = [p.name for p in (tmp_path / ".plans").iterdir() if p.suffix != ".lock"]
        assert not kept

    @pytest.mark.parametrize(
        ("flags", "error", "hint"),
        [
            (("--backend", "tensorrt-rtx", "--compute-capability", "90"),
             "doesn't build for compute capability 90", "it builds for 80, 86, 89, 120, 121"),
            (("--backend", "tensorrt-rtx", "--compute-capability", "ada"),
             "'ada' is none", "write it as 89"),
            (("--backend", "tensorrt-rtx", "--refit", "none"),
             "can't be built without a GPU and its driver", "--bake"),
            (("--backend", "tensorrt-rtx", "--version-compatible"),
             "TensorRT-RTX builds no version-compatible plans", "drop --version-compatible"),
            (("--backend", "tensorrt-rtx", "--workspace", "4096"),
             "--workspace 4096 is no size", "write it as 4GiB"),
            (("--backend", "tensorrt-rtx", "--refit", "none", "--bake"),
             "--bake puts the weights into the plan", "drop one of the two"),
            (("--backend", "tensorrt-rtx", "--hardware-compatibility-level", "ampere+"),
             "TensorRT-RTX has no --hardware-compatibility-level", "--compute-capability 89,120"),
            (("--backend", "tensorrt-rtx", "--workspace", "much"),
             "--workspace much is no size", "write it as 4GiB"),
            (("--backend", "tensorrt"),
             "tensorrt isn't installed", "--extra-index-url https://pypi.nvidia.com"),
            (("--bake",), "--bake is TensorRT's", "--backend tensorrt-rtx"),
            (("--memory-limit", "4GiB"), "--memory-limit is TensorRT's", "--backend tensorrt"),
        ],
        ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, tuple) else "",
    )  # fmt: skip
    def test_flags_that_cannot_be(
        self, tmp_path: Path, flags: tuple[str, ...], error: str, hint: str
    ) -> None:
        trt_build.find_toolchain.cache_clear()
        out = tmp_path / "engines"
        code, said, problem = wanexport("build", "--mode", "full", *flags, "--out", out)
        assert (code, said) == (1, "")
        assert error in problem
        assert hint in problem
        assert not out.exists()


@pytest.mark.usefixtures("fake")
class TestTheGpuDecides:
    def resolve(self, **options: object) -> PlanSettings:
        return resolve_settings(PlanSettings("tensorrt-rtx", **options))  # type: ignore[arg-type]

    def test_for_the_gpu_that_is_here_weights_stay_outside(self) -> None:
        assert self.resolve().refit == "none"
        assert self.resolve(capabilities=("8.9",)).refit == "none"

    def test_for_others_they_go_inside(self, fake: Callable[..., None]) -> None:
        fake(capabilities=["8.9", "12.0"])
        assert self.resolve(capabilities=("12.0",)).refit == "baked"
        assert self.resolve(capabilities=("8.9", "12.0")).refit == "baked"
        with pytest.raises(ConfigError, match="is for one compute capability, not for 2"):
            self.resolve(capabilities=("8.9", "12.0"), refit="all")

    def test_a_data_center_gpu_is_none_of_rtx(self, fake: Callable[..., None]) -> None:
        fake(capability="9.0", capabilities=["8.9", "12.0"])
        with pytest.raises(ConfigError, match="doesn't build for compute capability 90") as caught:
            self.resolve()
        assert "--backend tensorrt there" in caught.value.hint

    def test_a_plan_for_another_gpu_is_not_run(
        self, fake: Callable[..., None], sources: Path, tmp_path: Path
    ) -> None:
        fake(capabilities=["8.9", "12.0"])
        settings = PlanSettings("tensorrt-rtx", capabilities=("12.0",))
        base = str(sources / "base")
        made = build(tmp_path, modes=("full",), dtype="fp16", base=base, plans=settings)
        assert made[0].verification is not None
        assert made[0].verification.plan_error is None

    def test_a_version_compatible_plan_has_no_refitter(self) -> None:
        settings = PlanSettings("tensorrt", refit="all", version_compatible=True)
        with pytest.raises(ConfigError, match="runs without a refitter"):
            resolve_settings(settings)


@pytest.mark.usefixtures("fake")
class TestAPlanIsMended:
    def build(self, out: Path, **options: object) -> Built:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options |= {"modes": ("full",), "dtype": "fp16", "plans": settings, "verify": False}
        return build(out, **options)[0]

    def test_force_builds_it_again(self, tmp_path: Path) -> None:
        plan = self.build(tmp_path).path / "engine.plan"
        inode = plan.stat().st_ino
        self.build(tmp_path, force=True)
        assert plan.stat().st_ino != inode

    def test_a_damaged_one_is_no_plan(self, tmp_path: Path) -> None:
        plan = self.build(tmp_path).path / "engine.plan"
        sound = plan.read_bytes()
        plan.write_bytes(sound.replace(b"all", b"ALL"))  # in place: the pool's as well
        shutil.rmtree(plan.parent)
        assert (self.build(tmp_path).path / "engine.plan").read_bytes().count(b"ALL") == 0

    def test_other_code_makes_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.build(tmp_path)
        monkeypatch.setattr("wanexport.trt_settings.code_hash", lambda: "another")
        with pytest.raises(BuildError, match="made from another backend"):
            self.build(tmp_path)

    def test_the_rank_it_swaps_in_is_part_of_it(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options = {"modes": ("merged",), "dtype": "fp16", "plans": settings, "verify": False}
        build(tmp_path, ranks=(8,), **options)
        with pytest.raises(BuildError, match="swap rank was 8, is 32"):
            build(tmp_path, ranks=(8,), max_rank=32, **options)


def test_a_plan_that_holds_weights_takes_their_room(tmp_path: Path) -> None:
    code, said, _ = wanexport(
        "build", "--mode", "full", "--backend", "tensorrt-rtx", "--bake", "--dry-run",
        "--out", tmp_path / "e",
    )  # fmt: skip
    assert code == 0
    (written,) = re.findall(r"writes +([0-9.]+) MiB +memory", said)
    assert float(written) > 55
