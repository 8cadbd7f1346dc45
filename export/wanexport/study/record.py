"""study.json: what a study is and has come to, for `wanrt report` and for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wanexport.cost import predict_engines
from wanexport.study.cells import Cell, Group
from wanexport.study.file import Study
from wanexport.study.run import Progress
from wanexport.study.units import Places
from wanrt.machine.devices import DeviceRates, find_device, load_devices
from wanrt.storage.files import write_text

__all__ = ["choose_estimates", "write_record"]

SCHEMA = 1


def choose_estimates(study: Study) -> list[DeviceRates]:
    """Return the devices that a study wants estimates for.

    Raises:
        WanrtError: there is no such device.
    """
    devices = load_devices()
    return [find_device(name, devices) for name in study.estimate]


def write_record(
    study: Study,
    groups: Sequence[Group],
    places: Places,
    devices: Sequence[DeviceRates],
    progress: Progress,
) -> None:
    """Write it; paths in it are relative to its folder."""
    value = {
        "schema": SCHEMA,
        "study": study.name,
        "request": study.model_dump(mode="json"),
        "extractions": _extractions(study, groups, places),
        "groups": [_describe(group, places, devices, progress) for group in groups],
    }
    write_text(places.record, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _describe(
    group: Group, places: Places, devices: Sequence[DeviceRates], progress: Progress
) -> dict[str, object]:
    failed = progress.failures.get(f"bench {group.name}")
    return {
        "name": group.name,
        "model": group.config.name,
        "workload": group.config.size.name,
        "dtype": group.config.dtype,
        "backend": group.backend,
        "quantize": group.quantize,
        "cells": [_describe_cell(cell, places, progress) for cell in group.cells],
        "results": [_relative(path, places) for path in progress.results.get(group.name, ())],
        "failed": failed and failed.reason,
        "log": failed and failed.log and _relative(failed.log, places),
        "estimates": [_estimate(group, device) for device in devices],
    }


def _describe_cell(cell: Cell, places: Places, progress: Progress) -> dict[str, object]:
    built, failure = progress.built.get(cell.name), progress.failures.get(cell.name)
    if built is not None:
        failure = None
    adapter = cell.adapter
    return {
        "label": cell.label,
        "mode": cell.mode,
        "rank": adapter and adapter.rank,
        "targets": adapter and adapter.set_name,
        "engine": built and _relative(built.folders[0], places),
        "build_s": built and built.seconds,
        "failed": failure and failure.reason,
        "log": failure and failure.log and _relative(failure.log, places),
    }


def _estimate(group: Group, device: DeviceRates) -> Mapping[str, object]:
    """Return the least seconds of a forward of each cell on a device, by its roofline."""
    outlooks = [predict_engines(cell.request, device) for cell in group.cells]
    seconds = [outlook.predictions[0]["forward"].seconds for outlook in outlooks]
    return {
        "device": device.full_name,
        "dtype": outlooks[0].dtype,
        "fits": [outlook.fits(0, "forward") for outlook in outlooks],
        "seconds": seconds,
    }


def _extractions(study: Study, groups: Sequence[Group], places: Places) -> list[str]:
    if study.adapters.source != "extract":
        return []
    adapters = dict.fromkeys(adapter for group in groups for adapter in group.adapters)
    folders = dict.fromkeys(places.extracted(adapter) for adapter in adapters)
    return [_relative(folder / "extract.json", places) for folder in folders]


def _relative(path: Path, places: Places) -> str:
    return str(path.relative_to(places.out)) if path.is_relative_to(places.out) else str(path)
