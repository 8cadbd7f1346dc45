"""The operators of a forward, read from ONNX Runtime's own profile of it as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from wanrt.errors import EngineError
from wanrt.explain.kernel import Kernel, Operand
from wanrt.explain.operators import complete
from wanrt.storage.strict_json import parse_json

__all__ = ["Profile", "read_profile"]

RUN: Final = ("Session", "model_run")
KERNEL: Final = "_kernel_time"
DTYPES: Final = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
SCOPES: Final = ("stem", "blocks", "head")

Size = Annotated[int, Field(ge=0, lt=1 << 63)]
Tensors = tuple[Annotated[dict[str, tuple[Size, ...]], Field(min_length=1, max_length=1)], ...]


class _Event(BaseModel):
    """What of an event is read; times count microseconds."""

    model_config = ConfigDict(frozen=True, strict=True)

    cat: str
    name: str
    ts: Size
    dur: Size
    args: dict[str, object]


class _Operator(BaseModel):
    """What an operator's event says of it; a dtype by ONNX Runtime's word with each shape."""

    model_config = ConfigDict(frozen=True)

    op_name: Annotated[str, Field(min_length=1)]
    input_type_shape: Tensors
    output_type_shape: Tensors


_EVENTS = TypeAdapter(list[_Event])


@dataclass(frozen=True)
class Profile:
    """One forward.

    Args:
        kernels: its operators, in the order in which they ran.
        seconds: from its beginning to its end, with what happens between operators.
    """

    kernels: tuple[Kernel, ...]
    seconds: float


def read_profile(text: str, where: str) -> Profile:
    """Return the last forward of a profile; `where` names it in errors.

    Raises:
        EngineError: it isn't a profile of ONNX Runtime, holds no forward, or an operator's dtypes
            or shapes aren't known.
    """
    try:
        events = _EVENTS.validate_python(parse_json(text))
        runs = [event for event in events if (event.cat, event.name) == RUN]
        if not runs:
            raise _unreadable(where, "it holds no forward")
        last = runs[-1]
        ran = sorted(_within(events, last), key=lambda event: event.ts)
        kernels = tuple(_read(event, number, where) for number, event in enumerate(ran))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _unreadable(where, f"{place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, str(error)) from None
    if not kernels:
        raise _unreadable(where, "its forward ran no operators")
    return Profile(kernels, last.dur / 1e6)


def _within(events: Sequence[_Event], run: _Event) -> list[_Event]:
    """Return the operators of one run."""
    end = run.ts + run.dur
    return [
        event
        for event in events
        if event.cat == "Node" and event.name.endswith(KERNEL) and run.ts <= event.ts <= end
    ]


def _read(event: _Event, number: int, where: str) -> Kernel:
    found = _Operator.model_validate(event.args)
    name = event.name.removesuffix(KERNEL)
    sides = []
    for side, tensors in (("in", found.input_type_shape), ("out", found.output_type_shape)):
        operands = []
        for index, tensor in enumerate(tensors):
            ((dtype, shape),) = tensor.items()
            if dtype not in DTYPES:
                raise _unreadable(where, f"operator {name} has an operand of {dtype!r}")
            operands.append(Operand("", DTYPES[dtype], shape, (str(number), f"{side} {index}")))
        sides.append(tuple(operands))
    nodes = (name,) if name.split(".")[0] in SCOPES else ()  # fusions may name no node of ours
    took = event.dur / 1e6
    return complete(Kernel(found.op_name, name, sides[0], sides[1], nodes, seconds=took))


def _unreadable(where: str, why: str) -> EngineError:
    return EngineError(f"{where}: its profile can't be read: {why}", "nothing is guessed from it")
