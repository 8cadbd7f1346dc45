"""TensorRT's Python API, of the one library that this process runs: TensorRT or TensorRT-RTX.

    from wanrt.backends.tensorrt import api as trt

    trt.select("tensorrt-rtx")
    builder = trt.Builder(trt.Logger())

Both libraries have nearly the same API. What is spelt here exists in each that a type checker
was pointed at; tests/system/test_tensorrt_types.py points mypy at every release that we support.
"""

# No __all__: under a type checker this module offers all that TensorRT does, by the star below;
# that star also makes `bool` a TensorRT dtype here, so no annotation may use the built-in one.

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from wanrt.errors import UnsupportedError, install_hint

if TYPE_CHECKING:
    from tensorrt import *  # noqa: F403, TID251

Library = Literal["tensorrt", "tensorrt-rtx"]

MODULES: dict[Library, str] = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx_bindings",
}
INSTALL: dict[Library, str] = {
    # PyPI has TensorRT's bindings; its libraries lie in NVIDIA's own index alone
    "tensorrt": install_hint("tensorrt", "--extra-index-url https://pypi.nvidia.com"),
    "tensorrt-rtx": install_hint("tensorrt-rtx"),
}
OLDEST: dict[Library, tuple[int, int]] = {"tensorrt": (10, 16), "tensorrt-rtx": (1, 7)}

_selected: tuple[Library, ModuleType] | None = None


def select(library: Library) -> None:
    """Have this process run `library`; selecting the same one again does nothing.

    Raises:
        UnsupportedError: it isn't installed, can't be loaded or is older than `OLDEST`, or this
            process runs the other one; both in one process is nothing that NVIDIA documents.
    """
    global _selected
    if _selected is None:
        _selected = library, _load(library)
    elif _selected[0] != library:
        raise UnsupportedError(
            f"this process runs {_selected[0]}, and can't run {library} as well",
            f"run what needs {library} in a process of its own",
        )


def selected() -> Library | None:
    """Return the library that this process runs, or None before `select`."""
    return _selected[0] if _selected else None


def version() -> str:
    """Return the selected library's version, such as 11.4.0.106."""
    return str(_find("__version__"))


def _load(library: Library) -> ModuleType:
    name = MODULES[library]
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise UnsupportedError(f"{library} isn't installed", INSTALL[library]) from None
        reason = " ".join(str(error).split())
        raise UnsupportedError(f"{library} can't be loaded: {reason}", INSTALL[library]) from error
    major, minor = (int(part) for part in module.__version__.split(".")[:2])
    if (major, minor) < OLDEST[library]:
        oldest = ".".join(map(str, OLDEST[library]))
        raise UnsupportedError(
            f"{library} {module.__version__} is older than {oldest}",
            f"upgrade it with --upgrade: {INSTALL[library]}",
        )
    return module


def _find(name: str) -> Any:
    if _selected is None:
        raise AttributeError(
            f"wanrt.backends.tensorrt.api has no {name!r} before select() was called"
        )
    return getattr(_selected[1], name)


# A type checker that has TensorRT's types must not see this: any name would do. mypy is told
# `--always-true TENSORRT_STUBS` where it has them.
TENSORRT_STUBS = False
if not TENSORRT_STUBS:

    def __getattr__(name: str) -> Any:
        return _find(name)
