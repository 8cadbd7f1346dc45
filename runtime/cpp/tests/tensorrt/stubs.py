"""stubs.py NvInferImpl.h OUT: write classes that implement TensorRT's interfaces by stopping.

Headers of any version do: what the stand-in needs it overrides, the rest must not be called.
"""

import re
import sys
from pathlib import Path

INTERFACES = ("Runtime", "CudaEngine", "ExecutionContext", "Refitter")
METHOD = re.compile(r"virtual ([\w:&* ]+?)\s*(\w+)\(([^()]*)\)( const)? noexcept = 0;")

HEAD = """#pragma once
#include <NvInfer.h>

#include <cstdio>
#include <cstdlib>

namespace stubs {
using namespace nvinfer1;

[[noreturn]] inline void stop(const char* name) {
  std::fprintf(stderr, "the stand-in for TensorRT has no %s\\n", name);
  std::abort();
}
"""


def write_class(interface: str, header: str) -> str:
    """Return a class that has every method of an interface."""
    begin = header.index(f"class V{interface} : public VRoot")
    methods = METHOD.findall(header[begin : header.index("\n};", begin)])
    body = "\n".join(
        f'  {kind} {name}({arguments}){const} noexcept override {{ stop("{name}"); }}'
        for kind, name, arguments, const in methods
    )
    return f"class {interface} : public apiv::V{interface} {{\n public:\n{body}\n}};\n"


def main(source: str, out: str) -> None:
    """Write the stubs of a header."""
    header = re.sub(r"//.*", "", Path(source).read_text(encoding="utf-8"))
    classes = "\n".join(write_class(interface, header) for interface in INTERFACES)
    Path(out).write_text(f"{HEAD}\n{classes}\n}}  // namespace stubs\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
