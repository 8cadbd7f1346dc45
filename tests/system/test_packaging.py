from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("benchmarks", "configs", "docs", "export", "runtime", "tests", "tools")
FILES = (
    ".gitignore", "ARCHITECTURE.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    "Makefile", "README.md", "constraints.txt", "pyproject.toml",
)  # fmt: skip
SPECIFICATION = ("engines/README.md", "engines/engine.schema.json")
JUNK = (
    "engines/mine/engine.json",
    "engines/mine/model.onnx",
    "engines/mine/weights/base.safetensors",
    "engines/.weights/0123.safetensors",
    "engines/.made/demo/diffusion_pytorch_model-00001-of-00001.safetensors",
    "results/bench.json",
    ".venv/bin/python",
    "build/cpp/plain/libwanrt.so",
    "export/wanexport/__pycache__/cli.cpython-311.pyc",
    "notes.txt",
)
DIST_INFO = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")


def run(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout after some use: with engines, results and caches in it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            caches = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, ignore=caches)
    for name in (*FILES, *SPECIFICATION):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def sources(tree: Path) -> set[str]:
    return {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dist(tree: Path, sources: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, without asking an index for anything."""
    assert sources
    for name in JUNK:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("junk")
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, tree, cwd=dist)
    return dist


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


def test_sdist_holds_the_sources_alone(dist: Path, sources: set[str]) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == sources | {"PKG-INFO"}


def test_wheel_holds_packages_and_configs_alone(wheel: Path, sources: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    moved = {"export/wanexport/": "wanexport/", "runtime/wanrt/": "wanrt/",
             "configs/": "wanexport/configs/"}  # fmt: skip
    packaged = {
        target + name.removeprefix(source)
        for name in sources
        for source, target in moved.items()
        if name.startswith(source)
    }
    packaged |= {"wanrt/devices.toml", "wanrt/workloads.toml"}  # wanrt looks into no other package
    assert names == packaged | {f"{info}/{name}" for name in DIST_INFO}
    assert {"wanexport/py.typed", "wanrt/py.typed", "wanrt/report/html/page.html"} <= names
    assert "wanexport/configs/wan2.1-i2v-demo.toml" in names
    assert {Path(name).suffix for name in packaged} <= {
        ".py",
        ".typed",
        ".toml",
        ".json",
        ".html",
        ".css",
    }


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone in an environment of its own; its dependencies are this environment's."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=home)
    site = next(home.glob("lib/python*/site-packages"))
    # a path in a .pth file brings packages, not the .pth files (editable installs) lying there
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(paths))
    return home


def run_installed(installed: Path, cwd: Path, *argv: str) -> str:
    env = {"PATH": os.defpath, "HOME": str(cwd), "COLUMNS": "80"}
    return run(installed / "bin" / argv[0], *argv[1:], cwd=cwd, env=env)


@pytest.mark.parametrize("package", ["wanexport", "wanrt"])
def test_the_wheel_is_what_is_imported(package: str, installed: Path, tmp_path: Path) -> None:
    code = f"import {package}; print({package}.__file__)"
    path = run_installed(installed, tmp_path, "python", "-c", code)
    assert Path(path).is_relative_to(installed)


@pytest.mark.parametrize("command", ["wanexport", "wanrt"])
def test_the_wheels_commands_start(command: str, installed: Path, tmp_path: Path) -> None:
    assert "Usage" in run_installed(installed, tmp_path, command, "--help")


def test_the_wheel_has_the_configurations(installed: Path, tmp_path: Path) -> None:
    code = "from wanexport.model.config import list_configs; print(*list_configs())"
    shipped = sorted(path.stem for path in (ROOT / "configs").glob("wan*.toml"))
    assert run_installed(installed, tmp_path, "python", "-c", code).split() == shipped


def test_the_wheel_has_the_devices(installed: Path, tmp_path: Path) -> None:
    said = run_installed(installed, tmp_path, "wanexport", "estimate", "--device", "H100")
    assert "at best on H100: 67.00 TFLOP/s in fp32" in said


def test_the_wheel_plans_a_build_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    said = run_installed(installed, tmp_path, "wanexport", "build", "--rank", "4", "--dry-run")
    for mode in ("full", "merged", "separate", "swappable"):
        assert mode in said
    assert not list(tmp_path.iterdir())
