"""When a plan is built anew, mended or reused, and with whose timings; by a fake builder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
from folders import manifests, plan_of
from studies import build

from wanexport.build.recipe import Built
from wanexport.errors import BuildError
from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.read import read_manifest

sources = folders.sources  # a fixture


@pytest.mark.usefixtures("fake_builder")
class TestTheTimingCacheAndTheControl:
    def test_tensorrt_builds_full_again_without_the_cache(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt", refit="none")
        build(
            tmp_path,
            modes=("full", "merged"),
            ranks=(4,),
            dtype="fp16",
            tensorrt=settings,
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
            tensorrt=PlanSettings("tensorrt-rtx"),
            verify=False,
        )
        assert len(manifests(tmp_path)) == 1


@pytest.mark.usefixtures("fake_builder")
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
                tensorrt=settings, verify=False,
            )  # fmt: skip
            keys.append(plan_of(read_manifest(made[0].path)).key)
        assert (keys[0] == keys[1]) is same

    @pytest.mark.parametrize(
        "machine",
        [{"library": "11.5.0.1"}, {"gpu": "Another GPU"}, {"capability": "9.0"}],
        ids=["library", "gpu", "capability"],
    )
    def test_another_machine(
        self, fake_builder: Callable[..., None], tmp_path: Path, machine: dict[str, str]
    ) -> None:
        options: dict[str, Any] = {"modes": ("full",), "dtype": "fp16", "verify": False}
        options["tensorrt"] = PlanSettings("tensorrt", refit="none", control=False)
        build(tmp_path, **options)
        fake_builder(**machine)
        with pytest.raises(BuildError, match="built from another backend") as caught:
            build(tmp_path, **options)
        assert "--force" in caught.value.hint

    def test_another_setting(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"modes": ("full",), "dtype": "fp16", "verify": False}
        build(tmp_path, tensorrt=PlanSettings("tensorrt-rtx"), **options)
        with pytest.raises(BuildError, match="built from another backend"):
            build(tmp_path, tensorrt=PlanSettings("tensorrt-rtx", optimization_level=5), **options)


@pytest.mark.usefixtures("fake_builder")
class TestAPlanIsMended:
    def build(self, out: Path, **options: Any) -> Built:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options |= {"modes": ("full",), "dtype": "fp16", "tensorrt": settings, "verify": False}
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
        monkeypatch.setattr("wanexport.tensorrt.settings.code_hash", lambda: "another")
        with pytest.raises(BuildError, match="built from another backend"):
            self.build(tmp_path)

    def test_the_rank_it_swaps_in_is_part_of_it(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options: dict[str, Any] = {
            "modes": ("merged",),
            "dtype": "fp16",
            "tensorrt": settings,
            "verify": False,
        }
        build(tmp_path, ranks=(8,), **options)
        with pytest.raises(BuildError, match="swap rank was 8, is 32"):
            build(tmp_path, ranks=(8,), max_rank=32, **options)
