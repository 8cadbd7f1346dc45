"""What `wanrt explain --json` prints: everything, each operand of each kernel."""

from __future__ import annotations

import json
from collections.abc import Sequence

from wanrt.explain.difference import compare_kernels
from wanrt.explain.explained import Explained
from wanrt.explain.kernel import Operand
from wanrt.explain.lora_share import sum_adapter
from wanrt.explain.work import bound_seconds, sum_by_part
from wanrt.machine.devices import DeviceRates

__all__ = ["to_json"]

SCHEMA = 1


def to_json(ours: Explained, theirs: Explained | None, devices: Sequence[DeviceRates]) -> str:
    """Return an engine's kernels, sums and bounds, and where another one's differ."""
    value = {"schema": SCHEMA, **_describe(ours, devices)}
    if theirs is not None:
        value["against"] = _describe(theirs, devices)
        value["differences"] = [
            {"ours": [w.label for w in run.ours], "theirs": [w.label for w in run.theirs]}
            for run in compare_kernels(ours.work, theirs.work)
        ]
    return json.dumps(value, indent=1)


def _describe(explained: Explained, devices: Sequence[DeviceRates]) -> dict[str, object]:
    adapter = sum_adapter(explained.work)
    bounds = {device.name: explained.bound(device) for device in devices}
    known = [device for device in devices if bounds[device.name] is not None]
    seconds = {device.name: bound_seconds(explained.work, device) for device in known}
    return {
        "engine": explained.manifest.name,
        "bytes": explained.moved,
        "flops": explained.flops,
        "cards": explained.manifest.cards,
        "exchanges": explained.exchanges,
        "received_bytes": explained.received,
        "least_bytes": dict(explained.workload.bytes),
        "parts": {
            part: {"bytes": sums.moved, "flops": sums.flops, "measured_s": sums.seconds or None}
            for part, sums in sum_by_part(explained.work).items()
        },
        "adapter": {"bytes": adapter.moved, "flops": adapter.flops},
        "compiled_bound_s": bounds,
        "forward_s": explained.forward_s,
        "kernels": [
            {
                "name": one.kernel.name,
                "label": one.label,
                "kind": one.kernel.kind,
                "stream": one.kernel.stream,
                "part": one.part,
                "adapter": one.adapter,
                "bytes": one.kernel.bytes,
                "exchanged_bytes": one.kernel.exchanged,
                "flops": one.flops,
                "computes_in": one.dtype,
                "measured_s": one.kernel.seconds,
                "at_best_s": {name: times[index] for name, times in seconds.items()},
                "inputs": [_values(operand) for operand in one.kernel.inputs],
                "outputs": [_values(operand) for operand in one.kernel.outputs],
                "nodes": one.kernel.nodes,
            }
            for index, one in enumerate(explained.work)
        ],
    }


def _values(operand: Operand) -> dict[str, object]:
    return {"name": operand.name, "dtype": operand.dtype, "shape": operand.shape}
