"""engine.json: the contract between exporter and runtimes. Imports storage and errors."""

from __future__ import annotations

from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Manifest

__all__ = ["Manifest", "read_manifest"]
