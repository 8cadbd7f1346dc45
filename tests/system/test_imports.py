from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import wanexport
import wanrt

ROOT = Path(__file__).parents[2]
PACKAGES = {"wanexport": ROOT / "export/wanexport", "wanrt": ROOT / "runtime/wanrt"}
HEAVY = ("torch", "diffusers", "transformers", "peft", "onnx", "onnx_ir", "onnxscript",
         "onnxruntime", "polygraphy", "tensorrt", "tensorrt_rtx_bindings", "cuda", "matplotlib",
         "jinja2", "ray")  # fmt: skip


@pytest.mark.parametrize("package", [wanexport, wanrt], ids=lambda p: p.__name__)
def test_packages_offer_what_they_say(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(names) <= 6
    assert names == sorted(names)
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined] # noqa: B018


LIGHT = (
    "wanexport", "wanexport.cli.main", "wanexport.cli.text.estimate", "wanexport.checkpoint.open",
    "wanexport.checkpoint.random_weights", "wanexport.cluster.ray_pool",
    "wanexport.cost", "wanexport.model.config",
    "wanexport.model.formulas",
    "wanexport.storage.hashes", "wanexport.storage.links", "wanexport.storage.tensor_file",
    "wanrt", "wanrt.cli.main", "wanrt.backends.load", "wanrt.backends.tensorrt.api",
    "wanrt.backends.tensorrt.cuda", "wanrt.backends.tensorrt.engine", "wanrt.bench.loading.child",
    "wanrt.bench.loading.jobs", "wanrt.bench.loading.process", "wanrt.bench.probe",
    "wanrt.machine.cpu_rates", "wanrt.machine.devices", "wanrt.machine.predict", "wanrt.manifest",
)  # fmt: skip
BLOCKER = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
sys.path[:0] = {path!r}
for name in {modules!r}:
    importlib.import_module(name)
{then}
"""


def run_bare(then: str = "", modules: tuple[str, ...] = LIGHT) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has no heavy package, after importing modules there."""
    paths = [str(folder.parent) for folder in PACKAGES.values()]
    code = BLOCKER.format(heavy=HEAVY, path=paths, modules=modules, then=then)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_light_modules_need_no_heavy_package() -> None:
    done = run_bare()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("cli", ["wanexport", "wanrt"])
def test_clis_start_without_heavy_packages(cli: str) -> None:
    then = f"import {cli}.cli.main as c; sys.argv[1:] = ['--help']; c.main()"
    done = run_bare(then, modules=())
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_a_dry_run_needs_no_heavy_package(tmp_path: Path) -> None:
    argv = ["build", "--rank", "4", "--dry-run", "--out", str(tmp_path / "engines")]
    done = run_bare(f"import wanexport.cli.main as c; sys.argv[1:] = {argv}; c.main()", modules=())
    assert (done.returncode, done.stderr) == (0, "")
    assert "swappable-r4" in done.stdout


@pytest.mark.parametrize("command", ["wanexport", "wanrt"])
def test_a_package_that_is_too_old_is_refused_before_any_is_loaded(
    command: str, tmp_path: Path
) -> None:
    for name, line in (("wanexport", "Requires-Dist: typer>=0.19"), ("typer", "Summary: old")):
        folder = tmp_path / f"{name}-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 0.1.0\n{line}\n"
        )
    path = [str(tmp_path), *(str(folder.parent) for folder in PACKAGES.values())]
    base = ("typer", "click", "rich", "pydantic", "numpy")
    code = BLOCKER.format(heavy=(*HEAVY, *base), path=path, modules=(f"{command}.__main__",),
                          then=f"sys.modules['{command}.__main__'].main()")  # fmt: skip
    argv = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "error: too old for wanexport: typer 0.1.0 (needs 0.19 or newer)\n"
        "hint: pip install 'typer>=0.19'\n",
    )
