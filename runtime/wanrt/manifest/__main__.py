"""python -m wanrt.manifest: print engine.schema.json."""

from __future__ import annotations

import sys

from wanrt.manifest.schema import json_schema

sys.stdout.write(json_schema())
