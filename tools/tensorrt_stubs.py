"""Make types of TensorRT's Python API, which NVIDIA ships without: tensorrt_stubs.py FOLDER

For every release that we support FOLDER/RELEASE/tensorrt/__init__.pyi, a path for MYPYPATH. The
bindings alone are needed, from PyPI: they import without a GPU, and without TensorRT's libraries
over dummies of these. What can't be made here is left out by name; FOLDER/made says nothing was.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stubrepair import repair

__all__ = ["RELEASES"]

RTX_MODULE = "tensorrt_rtx_bindings"
# None is what this environment has of TensorRT-RTX, whose libraries are on PyPI too
RELEASES = {"10.16": "10.16.1.11", "11.4": "11.4.0.106", "rtx": None}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# all that the bindings look up in these; a release that wants more names it in its ImportError
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip
COMPILER = "c++"


class LeftOutError(Exception):
    """This machine can't make a release's types."""


def main(folder: Path) -> None:
    """Make the types of every release in `folder`, and say which couldn't be made and why."""
    made = folder / "made"
    made.unlink(missing_ok=True)
    whole = True
    for release, version in RELEASES.items():
        try:
            stub = _make(version)
        except LeftOutError as reason:
            again = "to try again: make stubs"
            print(f"left out: types of TensorRT {release}: {reason}; {again}")
            whole = False
            continue
        path = folder / release / "tensorrt/__init__.pyi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stub)
    if whole:
        made.touch()


def _make(version: str | None) -> str:
    if version is None:
        if importlib.util.find_spec(RTX_MODULE) is None:
            raise LeftOutError(f"{RTX_MODULE} isn't installed")
        return repair(_generate(f"{RTX_MODULE}.tensorrt_rtx", {}))
    with _bindings(version) as environment:
        return repair(_generate("tensorrt_bindings.tensorrt", environment))


def _generate(module: str, environment: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        argv = (sys.executable, "-m", "pybind11_stubgen", "-o", folder, "--ignore-all-errors",
                "--print-invalid-expressions-as-is", module)  # fmt: skip
        subprocess.run(argv, env={**os.environ, **environment}, check=True)
        return Path(folder, module.replace(".", "/") + ".pyi").read_text()


@contextmanager
def _bindings(version: str) -> Iterator[dict[str, str]]:
    """Yield the environment in which that release's bindings can be imported."""
    if shutil.which(COMPILER) is None:
        raise LeftOutError(f"there is no {COMPILER}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(f"tensorrt-cu13-bindings=={version}", Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        for library in LIBRARIES:
            _make_dummy(Path(folder), f"lib{library}.so.{version.partition('.')[0]}")
        yield {"PYTHONPATH": folder, "LD_LIBRARY_PATH": folder}


def _download(requirement: str, folder: Path) -> Path:
    argv = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--only-binary", ":all:", "--dest", folder, requirement)  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        *_, reason = done.stderr.strip().splitlines() or ["pip says nothing"]
        raise LeftOutError(f"{requirement} can't be downloaded: {reason}")
    return next(folder.glob("*.whl"))


def _make_dummy(folder: Path, name: str) -> None:
    source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS)
    argv = (COMPILER, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}", "-o", name)
    subprocess.run(argv, cwd=folder, input=source, text=True, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
