"""What `make` says of torch before it installs: its size, and what TORCH takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose pip finds nothing."""
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    return tmp_path / "venv"


def make(environment: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    argv = ("make", "--no-print-directory", f"VENV={environment}", *variables,
            str(environment / ".installed-demo"))  # fmt: skip
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_size_is_said_before_the_download(environment: Path) -> None:
    said = make(environment).stdout
    assert said.splitlines()[0] == f"installing into {environment}"
    assert "GB to download" in said
    assert "TORCH=cpu" in said


def test_an_index_that_cant_be_reached_is_named_with_its_variables(environment: Path) -> None:
    done = make(environment, "TORCH=cpu", "TORCH_INDEX=http://127.0.0.1:9/simple")
    assert done.returncode == 2
    assert "torch can't be had from http://127.0.0.1:9/simple; TORCH_INDEX=URL" in done.stderr
    assert not (environment / ".installed-demo").exists()


def test_torch_for_cuda_that_is_there_isnt_taken_for_the_other(environment: Path) -> None:
    library = environment / "lib/python3.11/site-packages/torch/lib/libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    library.touch()
    done = make(environment, "TORCH=cpu")
    assert "holds torch for CUDA already" in done.stderr
    assert "the one choice is cpu" in make(environment, "TORCH=gpu").stderr
