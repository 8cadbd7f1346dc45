"""A Hugging Face cache with made-up repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

REVISION = "0" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that is the machine's."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def add_files(hub: Path, repo: str, files: dict[str, Path]) -> Path:
    """Put files into a repository, by their names in it, as links to blobs; return the snapshot."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, source in files.items():
        blob = folder / "blobs" / f"{len(list((folder / 'blobs').iterdir())):064x}"
        blob.hardlink_to(source)
        path = folder / "snapshots" / REVISION / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(blob)
    return folder / "snapshots" / REVISION
