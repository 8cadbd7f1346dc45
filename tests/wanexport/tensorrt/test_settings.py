"""What a plan is built for and how it holds its weights by default; what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import folders
import pytest
from commands import wanexport
from folders import engines
from studies import build

from wanexport.errors import BuildError, ConfigError
from wanexport.tensorrt import builder
from wanexport.tensorrt.settings import PlanSettings, resolve_settings

sources = folders.sources  # a fixture


class TestRefusals:
    def test_stripped_plans_need_a_gpu(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all", capabilities=("8.9",))
        with pytest.raises(BuildError, match="can't be built without a GPU") as caught:
            build(tmp_path, modes=("full",), dtype="fp16", tensorrt=settings)
        assert "--bake" in caught.value.hint
        assert not engines(tmp_path)

    def test_a_release_that_loses_biases(
        self, fake_builder: Callable[..., None], tmp_path: Path
    ) -> None:
        fake_builder(library="11.3.0.9")
        with pytest.raises(ConfigError, match=r"11\.3\.0\.9 may lose a bias"):
            build(tmp_path, modes=("full",), tensorrt=PlanSettings("tensorrt", refit="all"))
        build(
            tmp_path, modes=("full",), dtype="fp16", verify=False,
            tensorrt=PlanSettings("tensorrt", refit="none", control=False),
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("fail", "said"),
        [
            ("crash", "TensorRT's builder crashed with SIGSEGV"),
            ("kill", "the builder was killed, most likely because memory ran out"),
            ("mute", "the builder ended without a plan"),
            ("no such kernel", "no such kernel"),
        ],
    )
    def test_nothing_is_left_of_a_failed_build(
        self, fake_builder: Callable[..., None], tmp_path: Path, fail: str, said: str
    ) -> None:
        fake_builder(fail=fail)
        with pytest.raises(BuildError, match=said):
            build(
                tmp_path, modes=("full",), dtype="fp16", tensorrt=PlanSettings("tensorrt-rtx"),
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
             "'ada' isn't a compute capability", "write it as 89"),
            (("--backend", "tensorrt-rtx", "--refit", "none"),
             "can't be built without a GPU and its driver", "--bake"),
            (("--backend", "tensorrt-rtx", "--version-compatible"),
             "TensorRT-RTX builds no version-compatible plans", "drop --version-compatible"),
            (("--backend", "tensorrt-rtx", "--workspace", "4096"),
             "--workspace 4096 isn't a size with a unit", "write it as 4GiB"),
            (("--backend", "tensorrt-rtx", "--refit", "none", "--bake"),
             "--bake puts the weights into the plan", "drop one of the two"),
            (("--backend", "tensorrt-rtx", "--hardware-compatibility-level", "ampere+"),
             "TensorRT-RTX has no --hardware-compatibility-level", "--compute-capability 89,120"),
            (("--backend", "tensorrt-rtx", "--workspace", "much"),
             "--workspace much isn't a size with a unit", "write it as 4GiB"),
            (("--backend", "tensorrt"),
             "tensorrt isn't installed", "--extra-index-url https://pypi.nvidia.com"),
            (("--bake",), "--bake applies to TensorRT engines only", "--backend tensorrt-rtx"),
            (("--memory-limit", "4GiB"), "applies to TensorRT engines only", "--backend tensorrt"),
        ],
        ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, tuple) else "",
    )  # fmt: skip
    def test_flags_that_cannot_be(
        self, tmp_path: Path, flags: tuple[str, ...], error: str, hint: str
    ) -> None:
        builder.find_toolchain.cache_clear()
        out = tmp_path / "engines"
        code, said, problem = wanexport("build", "--mode", "full", *flags, "--out", out)
        usage = ("applies to TensorRT engines only", "TensorRT-RTX has", "builds no", "--bake puts")
        wrong_usage = any(words in error for words in usage)
        assert (code, said) == (2 if wrong_usage else 1, "")
        assert error in problem
        assert hint in problem
        assert not out.exists()


@pytest.mark.usefixtures("fake_builder")
class TestTheGpuDecides:
    def resolve(self, **options: object) -> PlanSettings:
        return resolve_settings(PlanSettings("tensorrt-rtx", **options))  # type: ignore[arg-type]

    def test_for_the_gpu_that_is_here_weights_stay_outside(self) -> None:
        assert self.resolve().refit == "none"
        assert self.resolve(capabilities=("8.9",)).refit == "none"

    def test_for_others_they_go_inside(self, fake_builder: Callable[..., None]) -> None:
        fake_builder(capabilities=["8.9", "12.0"])
        assert self.resolve(capabilities=("12.0",)).refit == "baked"
        assert self.resolve(capabilities=("8.9", "12.0")).refit == "baked"
        with pytest.raises(ConfigError, match="is for one compute capability, not for 2"):
            self.resolve(capabilities=("8.9", "12.0"), refit="all")

    def test_a_data_center_gpu_is_none_of_rtx(self, fake_builder: Callable[..., None]) -> None:
        fake_builder(capability="9.0", capabilities=["8.9", "12.0"])
        with pytest.raises(ConfigError, match="doesn't build for compute capability 90") as caught:
            self.resolve()
        assert "--backend tensorrt there" in caught.value.hint

    def test_a_plan_for_another_gpu_is_not_run(
        self, fake_builder: Callable[..., None], sources: Path, tmp_path: Path
    ) -> None:
        fake_builder(capabilities=["8.9", "12.0"])
        settings = PlanSettings("tensorrt-rtx", capabilities=("12.0",))
        base = str(sources / "base")
        made = build(tmp_path, modes=("full",), dtype="fp16", base=base, tensorrt=settings)
        assert made[0].verification is not None
        assert made[0].verification.plan_error is None

    def test_a_version_compatible_plan_has_no_refitter(self) -> None:
        settings = PlanSettings("tensorrt", refit="all", version_compatible=True)
        with pytest.raises(ConfigError, match="can't be refitted"):
            resolve_settings(settings)
