"""Make of pybind11-stubgen's stub of TensorRT one that a type checker can use.

pybind11 shows a callback's arguments as C++ has them, and knows of neither None nor the sequences
and arrays that it converts. What the bindings' docstrings say of that ends up in types; their text,
which is NVIDIA's, doesn't.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Mapping

__all__ = ["repair"]

# what isn't Python: C++ names, values as defaults, `in` as a parameter's name, and a parameter
# without a default after one with it
NOT_PYTHON = (
    (r"\b(?:nvinfer1|nvonnxparser)::(?:\w+::)*(\w+)", r"\1"),
    (r"\bdetail::accessor<[\w:]+>", "IPluginRegistry"),
    (r"= ?<[\w.]+: -?\d+>", "= ..."),
    (r"\bin: (?=[a-z])", "in_: "),
    (r"(= None, \w+: [\w.]+)\)", r"\1 = ...)"),
    # what newer Pythons have a home for, as every Python that we support can find it
    (r"import types\nimport typing\n", "import typing\nimport typing_extensions\n"),
    (r"\btypes\.CapsuleType\b", "typing_extensions.CapsuleType"),
    (r"\bcollections\.abc\.Buffer\b", "typing_extensions.Buffer"),
)
SPELT_OUT = {
    "bool": "builtins.bool",  # trt.bool is a dtype
    "list": "list[typing.Any]",
    "tuple": "tuple[typing.Any, ...]",
    "numpy.ndarray": "_Array",  # Weights.numpy is a method
    "collections.abc.Callable": "collections.abc.Callable[..., typing.Any]",
    "collections.abc.Iterable": "collections.abc.Iterable[typing.Any]",
}
# what pybind11 converts for a parameter, or for an attribute that is set
CONVERTED = {
    **SPELT_OUT,
    "Dims": "_DimsLike",
    "Permutation": "_DimsLike",
    "Weights": "_WeightsLike",
    "typing.SupportsInt": "typing.SupportsIndex",  # a float is a TypeError
}
SETTABLE = {"Dims", "Permutation", "Weights"}
# what TensorRT hands to a method that Python code overrides
CALLBACKS = {"IErrorRecorder", "IGpuAllocator", "IGpuAsyncAllocator", "ILogger", "IProfiler",
             "IProgressMonitor"}  # fmt: skip
HANDED = {
    **SPELT_OUT,
    "typing.SupportsInt": "int",
    "typing.SupportsFloat": "float",
    "typing_extensions.CapsuleType": "int",
}
# None is what a failure returns: where a docstring says so, and two that hold their peace about it
RETURNS_NONE = re.compile(r":returns:.*\bor (?::class:)?`*None\b(?!.* out of range)")
TAKES_NONE = re.compile(r":arg (\w+):.*\bNone\b")
SILENT = {"build_serialized_network", "create_execution_context"}
# context managers are deprecated, and the rest is of no use to a type checker
DROPPED = {"__all__", "_plugin_registry", "__enter__", "__exit__", "__nonzero__", "__getstate__",
           "__release_buffer__", "__setstate__"}  # fmt: skip
LAX = '# mypy: disable-error-code="assignment, misc, overload-cannot-match, override"\n'
# what stubgen can't see: it replaces or joins what the class has, in releases that have the class
OURS = """
import builtins
_Array: typing.TypeAlias = numpy.ndarray[typing.Any, typing.Any]
_DimsLike: typing.TypeAlias = Dims | Permutation | collections.abc.Sequence[typing.SupportsIndex]
_WeightsLike: typing.TypeAlias = Weights | _Array
__version__: str
def volume(iterable: collections.abc.Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type[numpy.generic]: ...
class DataType:
    @property
    def itemsize(self) -> float: ...
class ITensor:
    @property
    def shape(self) -> Dims: ...
    @shape.setter
    def shape(self, shape: _DimsLike) -> None: ...
class IHostMemory:
    def __buffer__(self, flags: int, /) -> memoryview: ...
class IErrorRecorder:
    MAX_DESC_LENGTH: typing.ClassVar[int]
class IStreamReader:
    def read(self, size: int) -> bytes: ...
class IStreamReaderV2:
    def read(self, num_bytes: int, stream: int) -> bytes: ...
    def seek(self, offset: int, where: SeekPosition) -> builtins.bool: ...
class IStreamWriter:
    def write(self, data: bytes) -> int: ...
class IOutputAllocator:
    def reallocate_output(
        self, tensor_name: str, memory: int, size: int, alignment: int
    ) -> int: ...
    def reallocate_output_async(
        self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
    ) -> int: ...
    def notify_shape(self, tensor_name: str, shape: Dims) -> None: ...
class IDebugListener:
    def process_debug_tensor(
        self, addr: int, location: TensorLocation, type: DataType, shape: Dims, name: str,
        stream: int
    ) -> None: ...
"""


def repair(raw: str) -> str:
    """Return the stub that pybind11-stubgen's is to be.

    Raises:
        SyntaxError: a release's signatures hold something that no rule here knows.
    """
    for pattern, replacement in NOT_PYTHON:
        raw = re.sub(pattern, replacement, raw)
    module = ast.parse(raw)
    module = _Repair(module).visit(module)
    module.body += [node for node in ast.parse(OURS).body if not isinstance(node, ast.ClassDef)]
    return f"{LAX}{ast.unparse(module)}\n"


class _Repair(ast.NodeTransformer):
    def __init__(self, module: ast.Module) -> None:
        imported = {a.name for n in module.body if isinstance(n, ast.Import) for a in n.names}
        self._known = {_name(node) for node in module.body} | imported | set(dir(builtins))
        self._known.add("collections")  # of collections.abc
        classes = (node for node in ast.parse(OURS).body if isinstance(node, ast.ClassDef))
        self._ours = {node.name: node.body for node in classes}
        self._class = ""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = [each for each in node.body if _name(each) not in DROPPED]
        self.generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef | None:
        if (self._class, node.name) == ("Logger", "Severity"):
            return None  # it is ILogger's
        outer, self._class = self._class, node.name
        ours = self._ours.get(node.name, [])
        dropped = DROPPED | {_name(each) for each in ours}
        node.body = [
            each
            for each in node.body
            if not isinstance(each, ast.Expr) and _name(each) not in dropped
        ]
        self.generic_visit(node)
        node.body = [*node.body, *ours, *_iteration(node)] or [ast.Expr(ast.Constant(...))]
        self._class = outer
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign | list[ast.stmt]:
        kind, name = ast.unparse(node.annotation), _name(node)
        if self._class and kind in SETTABLE:
            return ast.parse(
                f"@property\ndef {name}(self) -> {kind}: ...\n"
                f"@{name}.setter\ndef {name}(self, value: {CONVERTED[kind]}) -> None: ..."
            ).body
        node.annotation = self._typed(node.annotation, SPELT_OUT)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        doc = ast.get_docstring(node) or ""
        node.body = [ast.Expr(ast.Constant(...))]
        spelling = HANDED if self._class in CALLBACKS else CONVERTED
        nullable = {*TAKES_NONE.findall(doc), *_defaulting_to_none(node.args)}
        for argument in node.args.args:
            if argument.arg == "self":
                argument.annotation = None  # at times a base class, or what it is converted from
            elif argument.annotation:
                argument.annotation = self._typed(argument.annotation, spelling)
                if argument.arg in nullable:
                    argument.annotation = _optional(argument.annotation)
        if any(ast.unparse(each).endswith(".setter") for each in node.decorator_list):
            node.returns = ast.Constant(None)
        elif node.returns:
            node.returns = self._typed(node.returns, SPELT_OUT)
            if RETURNS_NONE.search(doc) or node.name in SILENT:
                node.returns = _optional(node.returns)
        return node

    def _typed(self, annotation: ast.expr, spelling: Mapping[str, str]) -> ast.expr:
        """Return the annotation in that spelling; what names nothing in Python becomes Any."""
        if isinstance(annotation, ast.Subscript):
            annotation.slice = self._typed(annotation.slice, spelling)
        elif isinstance(annotation, ast.Tuple | ast.List):
            annotation.elts = [self._typed(each, spelling) for each in annotation.elts]
        elif isinstance(annotation, ast.BinOp):
            annotation.left = self._typed(annotation.left, spelling)
            annotation.right = self._typed(annotation.right, spelling)
        elif isinstance(annotation, ast.Name | ast.Attribute):
            name = ast.unparse(annotation)
            if name.partition(".")[0] not in self._known:
                name = name.removeprefix("I")  # C++'s IBuilder is Python's Builder
                name = name if name in self._known else "typing.Any"
            return _parsed(spelling.get(name, name))
        return annotation


def _name(node: ast.stmt) -> str:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return name
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return ""


def _parsed(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _optional(annotation: ast.expr) -> ast.expr:
    return _parsed(f"{ast.unparse(annotation)} | None")


def _defaulting_to_none(arguments: ast.arguments) -> Iterator[str]:
    first = len(arguments.args) - len(arguments.defaults)
    for argument, default in zip(arguments.args[first:], arguments.defaults, strict=True):
        if isinstance(default, ast.Constant) and default.value is None:
            yield argument.arg


def _iteration(node: ast.ClassDef) -> list[ast.stmt]:
    """Spell out that `for` goes through what has a length and an index."""
    functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    if "__iter__" in functions or not {"__len__", "__getitem__"} <= functions.keys():
        return []
    kinds = [
        ast.unparse(each.returns)
        for each in node.body
        if isinstance(each, ast.FunctionDef) and each.name == "__getitem__" and each.returns
        if "slice" not in ast.unparse(each.args)
    ]
    return ast.parse(f"def __iter__(self) -> collections.abc.Iterator[{kinds[0]}]: ...").body
