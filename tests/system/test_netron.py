"""netron, as docs/debugging.md shows it, serves an engine's graph and its linked weights."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from pages import ROOT, shown_commands
from tinyengines import Tiny, make_engine


def test_it_serves_a_linked_graph_with_its_weights(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "plain", Tiny())
    weights = engine / "weights" / "tiny.safetensors"
    os.link(weights, tmp_path / "checkpoint.safetensors")
    with socket.create_server(("localhost", 0)) as unused:
        port = unused.getsockname()[1]
    (shown,) = (
        one.text
        for one in shown_commands(ROOT / "docs/debugging.md")
        if one.text.startswith("netron ")
    )
    program, *arguments = shlex.split(shown)
    argv = [f"{Path(sys.executable).parent}/{program}", *arguments, "--port", f"{port}"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            while not answers(port):
                with suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"netron ended with {server.wait(0.1)}")
            for file in (engine / "model.onnx", weights):
                url = f"http://localhost:{port}/data/{file.relative_to(engine)}"
                with urlopen(url, timeout=5) as answer:
                    assert answer.read() == file.read_bytes()
        finally:
            server.kill()


def answers(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("localhost", port)):
        return True
    return False
