"""Jobs in processes of their own, and torch as a rival of an engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from studies import FLF2V, I2V, T2V, build
from tinyengines import Tiny, make_engine, read_raw, write_manifest

from wanexport.model.config import Architecture
from wanrt import WanrtError
from wanrt.backends.load import load_engine
from wanrt.bench.loading.jobs import GROUP, LoadJob, find_rival, find_rivals, load_job
from wanrt.bench.loading.process import Hosted, open_hosted
from wanrt.engine.engine import Runner
from wanrt.engine.inputs import make_inputs
from wanrt.errors import EngineError, ManifestError, UnsupportedError
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest

TINY = "64x32x1"
SIZE = "96x64x5"


@pytest.fixture
def tiny(tmp_path: Path) -> LoadJob:
    return LoadJob(open_folder(make_engine(tmp_path / "e", Tiny())), TINY, threads=1)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (built,) = build(tmp_path_factory.mktemp("full"), modes=("full",), verify=False)
    return built.path


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Install a distribution with rivals that do what no rival should."""
    info = tmp_path / "site" / "stubs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubs\nVersion: 1.0\n")
    points = "\n".join(f"{name} = stubs:{name}" for name in STUBS)
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\nabsent = nowhere:load\n")
    (tmp_path / "site" / "stubs.py").write_text(STUB_CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


STUBS = ("idle", "noisy", "fails", "refuses", "foreign", "exits", "aborts", "starves", "hangs")
STUB_CODE = """
import os, signal, sys, threading
from wanexport.errors import CheckpointError
from wanrt.errors import UnsupportedError

class Runner:
    timed, enqueue_s = "nothing", 0.125
    def __init__(self, forward):
        self.time_forward = forward
    def swap(self, adapter):
        pass
    def close(self):
        pass

def idle(job):
    return Runner(lambda: 0.25)

def noisy(job):
    def forward():
        print("\\x80" * 100_000)
        os.write(1, b"\\xff" * 100_000)
        os.write(2, b"\\xff" * 100_000)
        return 0.5
    return Runner(forward)

def fails(job):
    def forward():
        raise RuntimeError("out of\\n  luck" + "!" * 9999)
    return Runner(forward)

def refuses(job):
    raise UnsupportedError("not here", "go there")

def foreign(job):
    raise CheckpointError("no such tensor", "look again")

def exits(job):
    sys.stderr.write("first\\nthe reason\\n\\n")
    sys.stderr.flush()
    os._exit(3)

def aborts(job):
    return Runner(lambda: os.kill(os.getpid(), signal.SIGABRT))

def starves(job):
    return Runner(lambda: os.kill(os.getpid(), signal.SIGKILL))

def hangs(job):
    return Runner(threading.Event().wait)
"""


def hosting(job: LoadJob) -> closing[Hosted]:
    return closing(open_hosted(job))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("open_job", [load_job, open_hosted])
def test_an_engine_runs_here_or_in_a_process_of_its_own(tmp_path: Path, open_job: Any) -> None:
    swappable = Tiny(mode="swappable", max_rank=4, adapters=(2,), name="tiny-swappable")
    folder = make_engine(tmp_path / "e", swappable)
    runner: Runner = open_job(LoadJob(open_folder(folder), TINY, threads=1))
    assert runner.timed == "run_with_iobinding, inputs and outputs resident, host clock"
    assert 0 < runner.time_forward() < 10
    assert runner.enqueue_s is None
    runner.swap(folder / "adapters" / "r2.safetensors")
    with pytest.raises(WanrtError, match=r"none\.safetensors"):
        runner.swap(folder / "adapters" / "none.safetensors")
    assert 0 < runner.time_forward() < 10
    runner.swap(None)
    runner.close()
    runner.close()
    with pytest.raises(EngineError, match=r"closed|ended"):
        runner.time_forward()


def test_a_refusal_is_the_same_from_the_process(tiny: LoadJob) -> None:
    (tiny.engine.path / "model.onnx").unlink()
    with pytest.raises(ManifestError) as here:
        load_job(tiny)
    with pytest.raises(ManifestError) as there:
        open_hosted(tiny)
    assert (str(there.value), there.value.hint) == (str(here.value), here.value.hint)
    assert "model.onnx is missing" in str(here.value)


def test_a_workload_that_is_not_there(tiny: LoadJob) -> None:
    with pytest.raises(EngineError, match="no workload 'huge'"):
        open_hosted(LoadJob(tiny.engine, "huge"))


def test_unknown_rivals_are_refused_by_name(tiny: LoadJob, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="no rival 'jax'") as error:
        open_hosted(LoadJob(tiny.engine, TINY, rival="jax"))
    assert error.value.hint == "there are: torch-compile, torch-eager"
    monkeypatch.setattr("wanrt.bench.loading.jobs.entry_points", lambda group: ())  # noqa: ARG005
    with pytest.raises(EngineError, match="no rival 'jax'") as error:
        find_rival("jax")
    assert "pip install '.[export]'" in error.value.hint


def test_rivals_are_found_without_being_loaded() -> None:
    code = (
        "import sys; from wanrt.bench.loading.jobs import find_rivals;"
        "print(*sorted(find_rivals()));"
        "import wanrt.bench.loading.process, wanrt.bench.probe, wanrt.bench.loading.child;"
        "print({'torch', 'diffusers', 'wanexport', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["torch-compile torch-eager", "set()"], done.stderr
    assert find_rivals()["torch-eager"] == EntryPoint(
        "torch-eager", "wanexport.rivals:load_eager", GROUP
    )


REFUSALS: dict[str, tuple[type[WanrtError], str, str]] = {
    "refuses": (UnsupportedError, "not here", "go there"),
    "foreign": (EngineError, "foreign: no such tensor", "look again"),
    "exits": (EngineError, "exits: its process ended with exit code 3: the reason", ""),
    "absent": (
        UnsupportedError,
        "absent can't be imported: No module named 'nowhere'",
        "pip install '.[export]', in a checkout of wanexport",
    ),
}


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_rival_s_loading_meets(tiny: LoadJob, name: str) -> None:
    kind, message, hint = REFUSALS[name]
    with pytest.raises(kind) as error:
        open_hosted(LoadJob(tiny.engine, TINY, rival=name))
    assert (type(error.value), str(error.value), error.value.hint) == (kind, message, hint)


@pytest.mark.usefixtures("stubs")
def test_an_exception_in_a_forward_is_one_line_and_the_process_goes_on(tiny: LoadJob) -> None:
    with hosting(LoadJob(tiny.engine, TINY, rival="fails")) as hosted:
        for _ in range(2):
            with pytest.raises(EngineError) as error:
                hosted.time_forward()
            assert str(error.value).startswith("fails: RuntimeError: out of luck!!")
            assert len(str(error.value)) < 500


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aborts", "ended with SIGABRT"),
        ("starves", "was killed, most likely because memory ran out"),
    ],
)
def test_a_process_that_dies_in_a_forward(tiny: LoadJob, name: str, message: str) -> None:
    with hosting(LoadJob(tiny.engine, TINY, rival=name)) as hosted:
        with pytest.raises(EngineError, match=f"{name}: its process {message}"):
            hosted.time_forward()
        with pytest.raises(EngineError, match="its process has ended"):
            hosted.time_forward()
        assert gone(hosted.pid)


def test_a_process_that_was_killed_between_forwards(tiny: LoadJob) -> None:
    with hosting(tiny) as hosted:
        psutil.Process(hosted.pid).kill()
        with pytest.raises(EngineError, match="its process was killed") as error:
            hosted.time_forward()
    assert "dmesg" in error.value.hint


@pytest.mark.usefixtures("stubs")
def test_what_a_rival_prints_is_nobody_s_answer(tiny: LoadJob, capfd: Any) -> None:
    with hosting(LoadJob(tiny.engine, TINY, rival="noisy")) as hosted:
        assert [hosted.time_forward() for _ in range(3)] == [0.5] * 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("stubs")
def test_ctrl_c_is_the_parent_s(tiny: LoadJob) -> None:
    with hosting(LoadJob(tiny.engine, TINY, rival="idle")) as hosted:
        os.kill(hosted.pid, signal.SIGINT)
        assert (hosted.time_forward(), hosted.enqueue_s) == (0.25, 0.125)
        assert not gone(hosted.pid)
    assert gone(hosted.pid)


@pytest.mark.usefixtures("stubs")
def test_ctrl_c_within_a_forward_ends_the_process(tiny: LoadJob) -> None:
    hosted = open_hosted(LoadJob(tiny.engine, TINY, rival="hangs"))
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            hosted.time_forward()
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert gone(hosted.pid)


ORPHAN = """
import os
from pathlib import Path
from wanrt.bench.loading.process import open_hosted
from wanrt.bench.loading.jobs import LoadJob
from wanrt.manifest.folder import open_folder
hosted = open_hosted(LoadJob(open_folder(Path({folder!r})), {workload!r}))
print(hosted.pid, flush=True)
os._exit(1)
"""


def test_a_process_ends_with_its_parent(tiny: LoadJob) -> None:
    code = ORPHAN.format(folder=str(tiny.engine.path), workload=TINY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=10)


def sample(folder: Path, seed: int) -> np.ndarray:
    with load_engine(folder) as engine:
        workload = engine.manifest.workloads[SIZE]
        return engine.forward(**make_inputs(engine.manifest, workload, seed))["sample"]


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    difference = actual.astype(np.float64) - expected.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


@pytest.mark.parametrize(
    ("arch", "dtype", "tolerance"),
    [(I2V, "fp32", 1e-4), (FLF2V, "fp32", 1e-4), (I2V, "fp16", 1e-2)],
    ids=["i2v", "flf2v", "i2v-fp16"],
)
def test_torch_computes_what_the_engine_computes(
    arch: Architecture, dtype: str, tolerance: float, tmp_path: Path
) -> None:
    from wanexport.rivals import load_eager

    (built,) = build(tmp_path, arch, modes=("full",), dtype=dtype, verify=False)
    rival = load_eager(LoadJob(open_folder(built.path), SIZE, seed=3))
    assert rival.time_forward() > 0
    assert rival.sample is not None
    assert relative(rival.sample.numpy(), sample(built.path, 3)) < tolerance
    with pytest.raises(EngineError, match="torch-eager takes no adapter"):
        rival.swap("some.safetensors")
    rival.close()
    with pytest.raises(EngineError, match="torch-eager is closed"):
        rival.time_forward()


def test_torch_eager_runs_in_a_process_and_rests_between_forwards(full: Path) -> None:
    with (
        hosting(LoadJob(open_folder(full), SIZE, rival="torch-eager", threads=2)) as hosted,
        load_engine(full, threads=1) as engine,
    ):
        assert hosted.timed == ("diffusers' forward, inputs resident, inference mode, host clock")
        assert 0 < hosted.time_forward() < 10
        engine.bind(**make_inputs(engine.manifest, engine.manifest.workloads[SIZE], 0))
        times = psutil.Process(hosted.pid).cpu_times()
        busy_s = 0.0
        while busy_s < 0.5:  # another's turn
            busy_s += engine.time_forward()
        after = psutil.Process(hosted.pid).cpu_times()
    assert after.user + after.system - times.user - times.system < 0.05


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its own
@pytest.mark.filterwarnings("ignore:Guards may run slower")  # on Python 3.13.0
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_torch_compile_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = T2V.model_copy(update={"num_layers": 1})
    (built,) = build(tmp_path, arch, modes=("full",), verify=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    rival = load_job(LoadJob(open_folder(built.path), SIZE, rival="torch-compile"))
    assert not psutil.Process().children(recursive=True)
    assert 0 < rival.time_forward() < 10
    assert relative(rival.sample.numpy(), sample(built.path, 0)) < 1e-4  # type: ignore[attr-defined]


def test_torch_compile_needs_a_compiler(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wanexport.rivals import load_compiled

    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedError, match="there is no no-such-compiler") as error:
        load_compiled(LoadJob(open_folder(full), SIZE))
    assert "apt-get install g++" in error.value.hint


def test_torch_takes_engines_without_branches_alone(tmp_path: Path) -> None:
    from wanexport.rivals import load_eager

    folder = make_engine(tmp_path / "e", Tiny(mode="separate", rank=4))
    with pytest.raises(EngineError, match=r"torch-eager takes .* is a separate one"):
        load_eager(LoadJob(open_folder(folder), TINY))


def test_torch_needs_diffusers_own_graph(full: Path, tiny: LoadJob) -> None:
    from wanexport.rivals import load_eager

    with pytest.raises(EngineError, match="has no architecture"):
        load_eager(tiny)
    raw = read_raw(tiny.engine.path)
    raw["config"] = read_manifest(full).config
    write_manifest(tiny.engine.path, raw)
    with pytest.raises(EngineError, match="the graph has no weights"):
        load_eager(replace(tiny, engine=open_folder(tiny.engine.path)))


def test_torch_without_cuda(full: Path) -> None:
    from wanexport.rivals import load_eager

    with pytest.raises(UnsupportedError, match="finds no CUDA device"):
        load_eager(LoadJob(open_folder(full), SIZE, device="cuda"))
