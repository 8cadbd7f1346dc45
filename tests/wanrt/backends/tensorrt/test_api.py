"""TensorRT's API over made-up TensorRT modules: each test is a process, for it selects once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
LIBRARIES = sorted(MODULES)
REPORT = """
import sys
from wanrt.backends.tensorrt import api as trt
from wanrt.errors import UnsupportedError
try:
{body}
except UnsupportedError as error:
    print(error)
    print(error.hint)
print(trt.selected())
"""


def run(folder: Path, *statements: str) -> list[str]:
    """Run statements where `folder` is all that can be imported beside the runtime; its output."""
    body = "\n".join(f"    {line}" for line in statements)
    # what this environment has of TensorRT is hidden: an import finds `folder`'s or none
    hide = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in {set(MODULES.values())!r}:
            from importlib.machinery import PathFinder
            spec = PathFinder.find_spec(name, [{str(folder)!r}])
            if spec is None:
                raise ModuleNotFoundError("No module named " + repr(name), name=name)
            return spec
sys.meta_path.insert(0, Hide())
sys.path.insert(0, {str(ROOT / "runtime")!r})
"""
    code = hide + REPORT.format(body=body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with both libraries, each with one name besides its version."""
    (tmp_path / "tensorrt.py").write_text("__version__ = '11.4.0.106'\nBuilder = 'enterprise'\n")
    (tmp_path / "tensorrt_rtx_bindings.py").write_text(
        "__version__ = '1.7.1.116'\nBuilder = 'rtx'\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("library", "builder", "version"),
    [("tensorrt", "enterprise", "11.4.0.106"), ("tensorrt-rtx", "rtx", "1.7.1.116")],
)
def test_names_are_the_selected_librarys(
    library: str, builder: str, version: str, folder: Path
) -> None:
    selecting = f"trt.select({library!r})"
    said = run(folder, selecting, selecting, "print(trt.Builder, trt.version())")
    assert said == [f"{builder} {version}", library]


def test_nothing_is_imported_before_it_is_selected(folder: Path) -> None:
    said = run(folder, "print(hasattr(trt, 'Builder'))",
               f"print({set(MODULES.values())!r} & set(sys.modules))")  # fmt: skip
    assert said == ["False", "set()", "None"]


def test_a_name_the_library_lacks_is_an_attribute_error(folder: Path) -> None:
    said = run(folder, "trt.select('tensorrt')", "print(hasattr(trt, 'IAlgorithm'))")
    assert said == ["False", "tensorrt"]


@pytest.mark.parametrize("first", LIBRARIES)
def test_a_process_runs_one_of_the_two(first: str, folder: Path) -> None:
    (other,) = set(LIBRARIES) - {first}
    assert run(folder, f"trt.select({first!r})", f"trt.select({other!r})") == [
        f"this process runs {first}, and can't run {other} as well",
        f"run what needs {other} in a process of its own",
        first,
    ]


@pytest.mark.parametrize(
    ("library", "index"), [("tensorrt", "https://pypi.nvidia.com"), ("tensorrt-rtx", "")]
)
def test_a_missing_library_says_how_to_install_it(library: str, index: str, tmp_path: Path) -> None:
    message, hint, selected = run(tmp_path, f"trt.select({library!r})")
    assert message == f"{library} isn't installed"
    assert hint.startswith(f"pip install '.[{library}]'")
    assert index in hint
    assert selected == "None"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "fault",
    ["import tensorrt_libs_of_nobody", "raise OSError('libnvinfer.so.11:\\n  no such file')"],
    ids=["a part is missing", "the loader refuses"],
)
def test_a_broken_library_says_why_in_one_line(library: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / f"{MODULES[library]}.py").write_text(fault)
    message, hint, selected = run(tmp_path, f"trt.select({library!r})")
    assert message.startswith(f"{library} can't be loaded: ")
    assert "tensorrt_libs_of_nobody" in message or "libnvinfer.so.11: no such file" in message
    assert hint.startswith("pip install ")
    assert selected == "None"


@pytest.mark.parametrize(
    ("library", "version", "oldest"),
    [("tensorrt", "10.9.0.34", "10.16"), ("tensorrt-rtx", "1.6.0.1", "1.7")],
)
def test_an_old_library_is_refused(library: str, version: str, oldest: str, tmp_path: Path) -> None:
    (tmp_path / f"{MODULES[library]}.py").write_text(f"__version__ = {version!r}\n")
    message, hint, selected = run(tmp_path, f"trt.select({library!r})")
    assert message == f"{library} {version} is older than {oldest}"
    assert "--upgrade" in hint
    assert selected == "None"
