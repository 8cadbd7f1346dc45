"""Import every module of both packages in the Python that runs this; stands on nothing else."""

from __future__ import annotations

import importlib
import pkgutil

import wanexport
import wanrt
from wanrt.backends.tensorrt import api
from wanrt.errors import UnsupportedError

DERIVED = "wanexport.tensorrt.callbacks"
"""Its classes are TensorRT's, so it needs a library that is selected."""


def main() -> None:
    """Import them; an error ends it."""
    apart = set()
    try:
        api.select("tensorrt-rtx")
    except UnsupportedError as reason:
        print(f"left out: {DERIVED}: {reason}")
        apart.add(DERIVED)
    for package in (wanexport, wanrt):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in apart:
                importlib.import_module(module.name)


if __name__ == "__main__":
    main()
