"""What a cluster's run keeps in files, so that a driver that was killed goes on: DIR/cluster/."""

from __future__ import annotations

import json
import re
from pathlib import Path

from wanexport.cluster.unit import Card, Unit
from wanrt.storage.files import write_text

__all__ = ["StateFolder"]


class StateFolder:
    """Quarantined cards, the versions that count, and logs; on a path that all machines share."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        for part in ("quarantine", "logs"):
            (self.path / part).mkdir(parents=True, exist_ok=True)

    def log(self, unit: Unit, card: Card) -> Path:
        """Return the file for what a unit prints on a card."""
        name = re.sub(r"[^\w.-]", "-", unit.name)
        return self.path / "logs" / f"{name}@{card.file_name}.log"

    def quarantine(self, card: Card, unit: Unit, reason: str) -> Path:
        """Note that a card isn't to be used again; return the file to remove when it is well."""
        path = self.path / "quarantine" / f"{card.file_name}.json"
        record = {"card": card.id, "host": card.host, "unit": unit.name, "reason": reason}
        write_text(path, json.dumps(record, indent=1) + "\n")
        return path

    def quarantined(self) -> dict[str, str]:
        """Return the ids of cards that aren't to be used, each with its file."""
        files = sorted((self.path / "quarantine").glob("*.json"))
        return {str(json.loads(f.read_text(encoding="utf-8"))["card"]): str(f) for f in files}

    @property
    def versions(self) -> dict[str, str] | None:
        """The versions that every machine must have, once they were chosen."""
        path = self.path / "versions.json"
        if not path.exists():
            return None
        return {str(k): str(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}

    def keep_versions(self, versions: dict[str, str]) -> None:
        """Note the versions that were chosen, for the driver that resumes."""
        write_text(self.path / "versions.json", json.dumps(versions, indent=1) + "\n")
