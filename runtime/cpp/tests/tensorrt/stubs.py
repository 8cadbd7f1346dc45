"""Write a class per interface of NvInferImpl.h that implements every method by stopping.

Headers of any version do: what the stand-in needs it overrides, the rest must not be called.
"""

import re
import sys
from pathlib import Path

INTERFACES = ("Runtime", "CudaEngine", "ExecutionContext", "Refitter")
METHOD = re.compile(r"virtual ([\w:&* ]+?)\s*(\w+)\(([^()]*)\)( const)? noexcept = 0;")

header = re.sub(r"//.*", "", Path(sys.argv[1]).read_text(encoding="utf-8"))
print("#pragma once\n#include <NvInfer.h>\n#include <cstdio>\n#include <cstdlib>\n")
print("namespace stubs {\nusing namespace nvinfer1;")
print("[[noreturn]] inline void stop(const char* name) {")
print('  std::fprintf(stderr, "the stand-in for TensorRT has no %s\\n", name);\n  std::abort();\n}')
for interface in INTERFACES:
    body = re.search(rf"class V{interface} : public VRoot\s*{{(.*?)\n}};", header, re.DOTALL)
    print(f"class {interface} : public apiv::V{interface} {{\n public:")
    for kind, name, arguments, const in METHOD.findall(body[1]):
        flat = " ".join(arguments.split())
        print(f"  {kind} {name}({flat}){const} noexcept override {{ stop(\"{name}\"); }}")
    print("};")
print("}  // namespace stubs")
