"""A plan's builder that builds nothing: it speaks the protocol of `wanexport.tensorrt.worker`.

What TensorRT would be told becomes the plan. FAKE_BUILDER is a JSON object: `gpu`, `capability`,
`capabilities`, `library`, and `fail`: "crash", "kill", "mute", or a problem's text.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    asked = json.loads(sys.stdin.read())
    settings = {"gpu": "Fake GPU", "capability": "8.9", "library": "11.4.0.106", "fail": None}
    settings |= json.loads(os.environ.get("FAKE_BUILDER", "{}"))
    fail = settings.pop("fail")
    if len(asked) == 1:
        say({"capabilities": [settings["capability"]]} | asked | settings)
        return
    say({"kind": "phase", "name": "Building engine", "parent": None, "done": 0, "steps": 2})
    plan = Path(asked["plan"])
    plan.write_text(json.dumps(asked))
    if fail == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fail == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fail == "mute":
        return
    if fail:
        say({"kind": "problem", "message": fail, "hint": "a hint"})
        return
    if asked["timing_cache"]:
        Path(asked["timing_cache"]).write_text("timings")
    say({"kind": "phase", "name": "Building engine", "parent": None, "done": 2, "steps": 2})
    content = plan.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    say({"kind": "finished", "bytes": len(content), "sha256": sha256, "layers": {}, "engine": "{}"})


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
