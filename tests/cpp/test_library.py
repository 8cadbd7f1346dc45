"""libwanrt beside Python's wanrt: the same bits, the same refusals; and installed, for others."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpphosts import BUILD, BUILDS, ROOT, SOURCE, check, host, needs_tools, run
from safetensors.numpy import load_file, save_file
from studies import build
from tinyengines import (
    LORA_A,
    LORA_B,
    Tiny,
    adapter_tensors,
    make_engine,
    read_raw,
    write_adapter,
    write_manifest,
)

from wanrt.backends.load import load_engine
from wanrt.cli.run import save_tensors
from wanrt.engine.inputs import make_inputs
from wanrt.errors import WanrtError
from wanrt.manifest.read import read_manifest

pytestmark = needs_tools

HEADER = (SOURCE / "include" / "wanrt" / "wanrt.h").read_text(encoding="utf-8")
MODES = ("full", "merged", "separate")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engines that wanexport builds of a tiny model, by mode."""
    out = tmp_path_factory.mktemp("study")
    build(out, ranks=(4,), verify=False)
    folders = [path.parent for path in out.glob("[!.]*/engine.json")]
    return {read_manifest(folder).mode: folder for folder in folders}


def expect(folder: Path, tmp: Path, adapters: tuple[Path | None, ...] = (None,), **options: Any
           ) -> tuple[Path, list[Path]]:  # fmt: skip
    """Run Python's wanrt; return its inputs, and its outputs with each adapter."""
    manifest = read_manifest(folder)
    name = options.get("workload") or next(iter(manifest.workloads))
    inputs = make_inputs(manifest, manifest.workloads[name], 7)
    save_tensors(tmp / "inputs.safetensors", inputs, {})
    goldens = []
    with load_engine(folder, **options) as engine:
        for i, adapter in enumerate(adapters):
            if manifest.mode == "swappable":
                engine.swap(adapter)
            goldens.append(tmp / f"golden{i}.safetensors")
            save_tensors(goldens[-1], engine.forward(**inputs), {})
    return tmp / "inputs.safetensors", goldens


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("mode", MODES)
def test_outputs_are_python_s_bit_by_bit(
    study: dict[str, Path], mode: str, build: str, tmp_path: Path
) -> None:
    inputs, (golden,) = expect(study[mode], tmp_path)
    done = host(build, study[mode], "--inputs", inputs, "--golden", golden, "--forwards", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sample equals {golden} bit by bit" in done.stdout


@pytest.mark.parametrize("build", BUILDS)
def test_a_swap_and_the_way_back(study: dict[str, Path], build: str, tmp_path: Path) -> None:
    folder = study["swappable"]
    adapter = folder / read_manifest(folder).adapters[0].file
    inputs, (base, adapted) = expect(folder, tmp_path, (None, adapter))
    assert load_file(base)["sample"].tobytes() != load_file(adapted)["sample"].tobytes()
    visits = [("base", base), (adapter, adapted), ("base", base), (adapter, adapted)]
    flags = [x for name, golden in visits for x in ("--adapter", name, "--golden", golden)]
    done = host(build, folder, "--inputs", inputs, *flags, "--forwards", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit by bit") == len(visits)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mapped", [False, True])
def test_threads_and_mapped_weights(
    study: dict[str, Path], threads: int, mapped: bool, tmp_path: Path
) -> None:
    inputs, (golden,) = expect(study["full"], tmp_path, threads=threads, mapped=mapped)
    flags = ["--mapped"] * mapped
    done = host("plain", study["full"], "--inputs", inputs, "--golden", golden, *flags,
                "--threads", threads)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_small_engines_with_adapters_of_every_rank(dtype: str, tmp_path: Path) -> None:
    tiny = Tiny(mode="swappable", max_rank=4, adapters=(1, 2, 4), dtype=dtype, name="s")
    folder = make_engine(tmp_path / "engine", tiny)
    adapters = [folder / "adapters" / f"r{rank}.safetensors" for rank in (4, 1, 2)]
    inputs, goldens = expect(folder, tmp_path, (*adapters, None))
    flags = [x for pair in zip([*adapters, "base"], goldens, strict=True)
             for x in ("--adapter", pair[0], "--golden", pair[1])]  # fmt: skip
    done = host("sanitized", folder, "--inputs", inputs, *flags)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_engine_of_several_workloads(tmp_path: Path) -> None:
    tiny = Tiny(workloads={"small": 6, "large": 10})
    folder = make_engine(tmp_path / "engine", tiny)
    choices: tuple[dict[str, Any], ...] = ({"workload": "large"}, {})
    for options in choices:
        inputs, (golden,) = expect(folder, tmp_path, **options)
        flags = ["--workload", "large"] * bool(options)
        done = host("sanitized", folder, "--inputs", inputs, "--golden", golden, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{10 if options else 6} tokens per forward" in done.stdout
    done = host("sanitized", folder, "--inputs", inputs, "--workload", "large")
    assert "the workload's is [10, 16]" in done.stderr


def test_one_bit_is_told(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    inputs, (golden,) = expect(folder, tmp_path)
    y = load_file(golden)["y"]
    y.view(np.uint32)[3, 5] ^= 1
    save_file({"y": y}, golden)
    command = (folder, "--inputs", inputs, "--golden", golden)
    done = host("sanitized", *command)
    assert done.returncode == 1
    assert re.search(r"y differs from .*: relative L2 distance \d.*e-0[6-9]\n", done.stdout)
    assert host("sanitized", *command, "--tolerance", "1e-6").returncode == 0
    save_file({"z": y}, golden)
    assert f"y isn't in {golden}" in host("sanitized", *command).stdout
    save_file({"y": y[1:]}, golden)
    assert "distance inf" in host("sanitized", *command, "--tolerance", "1").stdout
    y[0, 0] = np.nan
    save_file({"y": y}, golden)
    assert host("sanitized", *command, "--tolerance", "1").returncode == 1


def test_an_output_that_overflows_is_no_result(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    inputs, _ = expect(folder, tmp_path)
    save_file(load_file(inputs) | {"x": np.full((6, 16), np.inf, np.float32)}, inputs)
    done = host("plain", folder, "--inputs", inputs)
    assert (done.returncode, done.stderr) == (1, "error: output y isn't finite\n")


def test_a_name_is_only_shown(tmp_path: Path) -> None:
    """The library has no control characters in its messages; the host knows marks of direction."""
    done = host("plain", tmp_path / "a\x1b[2J\u202e\u009bb\ud7ffé")
    assert done.returncode == 1
    shown = r"a [2J\xe2\x80\xae\xc2\x9bb" + "\ud7ffé"
    assert done.stderr.startswith(f"error: {tmp_path}/{shown}")


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_random_inputs(dtype: str, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny(dtype=dtype))
    done = host("sanitized", folder, "--seed", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^forward: \d\S* ms, \d\S* tokens per second$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("build", BUILDS)
def test_loading_is_shown_on_a_terminal(build: str, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    ours, theirs = pty.openpty()
    command = [BUILD / build / "wanrt-host", folder]
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0, shown
    assert shown.endswith("\rloading: 0.0 of 0.0 GB\r\n")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [BUILD / "sanitized" / "wanrt-host", folder],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: what was found can't be printed: No space left on device\n"


Alter = Callable[[dict[str, Any]], object]
ADAPTERS: dict[str, tuple[Alter, dict[str, str]]] = {
    "unmarked": (lambda _: None, {"format": "x"}),
    "of a later version": (lambda _: None, {"version": "2"}),
    "of another rank": (lambda t: t.update(adapter_tensors(9)), {}),
    "of two ranks": (lambda t: t.update({LORA_A: np.ones((1, 16), np.float32)}), {}),
    "of another width": (lambda t: t.update({LORA_A: np.ones((2, 9), np.float32)}), {}),
    "of three axes": (lambda t: t.update({LORA_A: np.ones((2, 16, 1), np.float32)}), {}),
    "of another dtype": (lambda t: t.update({LORA_A: np.ones((2, 16), np.float16)}), {}),
    "without a half": (lambda t: t.pop(LORA_B), {}),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_are_refused_in_python_s_words(case: str, tmp_path: Path) -> None:
    folder = make_engine(
        tmp_path / "engine", Tiny(mode="swappable", max_rank=4, adapters=(2,), name="s")
    )
    alter, marks = ADAPTERS[case]
    tensors = adapter_tensors(2)
    alter(tensors)
    path = write_adapter(tmp_path / "x.safetensors", tensors, **marks)
    with load_engine(folder) as engine, pytest.raises(WanrtError) as caught:
        engine.swap(path)
    done = host("sanitized", folder, "--adapter", path)
    assert done.returncode == 1
    assert done.stderr == f"error: {caught.value}\nhint: {caught.value.hint}\n"


REFUSED: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "adapter for a fixed engine": (
        lambda folder, _: [folder, "--adapter", "base"], "is a full engine, its adapter is fixed"),
    "no such workload": (
        lambda folder, _: [folder, "--workload", "9x9x9"], "has no workload '9x9x9'"),
    "inputs missing": (
        lambda folder, tmp: [folder, "--inputs", tmp / "x"], "x can't be read: No such file"),
    "inputs of other names": (
        lambda folder, _: [folder, "--inputs", folder / "weights" / "tiny.safetensors"],
        "there is no input bias"),
    "golden missing": (
        lambda folder, tmp: [folder, "--golden", tmp / "x"], "x can't be read: No such file"),
    "CUDA": (lambda folder, _: [folder, "--device", "cuda"], "has no CUDAExecutionProvider"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    argv, message = REFUSED[case]
    done = host("sanitized", *argv(make_engine(tmp_path / "engine", Tiny()), tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_bf16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    done = host("sanitized", make_engine(tmp_path / "engine", Tiny(dtype="bf16")))
    assert "bf16 doesn't run on ONNX Runtime's CPU" in done.stderr


def test_what_emulates_bf16_is_left_to_python(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny(dtype="bf16"))
    model = folder / "model.onnx"
    (folder / "emulated.onnx").write_bytes(model.read_bytes())
    raw = read_raw(folder)
    graph = raw["graphs"]["forward"]
    graph["emulated"] = {key: graph[key] for key in ("bytes", "sha256")} | {"file": "emulated.onnx"}
    write_manifest(folder, raw)
    assert host("sanitized", "--info", folder).returncode == 0
    done = host("sanitized", folder)
    assert done.returncode == 1
    assert "error: bf16 doesn't run on ONNX Runtime's CPU\n" in done.stderr
    assert done.stderr.endswith("its emulated form is Python's: wanrt run --device cpu\n")


def test_a_graph_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    data = b"\xff" * (folder / "model.onnx").stat().st_size
    (folder / "model.onnx").write_bytes(data)
    done = host("sanitized", folder)
    assert "model.onnx: its bytes are not the recorded ones (sha256)" in done.stderr
    raw = read_raw(folder)
    raw["graphs"]["forward"]["sha256"] = hashlib.sha256(data).hexdigest()
    write_manifest(folder, raw)
    done = host("sanitized", folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {folder}: ONNX Runtime: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "flags",
    [(), ("a", "b"), ("a", "--forwards", "0"), ("a", "--threads", "x"), ("a", "--tolerance", "-1"),
     ("a", "--device", "tpu"), ("a", "--frob"), ("a", "--golden", "g", "--golden", "h"),
     ("a", "--threads", "5000"), ("a", "--tolerance", "inf"), ("",), ("a", "--inputs", ""),
     ("a", "--adapter", ""), ("a", "--workload", ""), ("a", "--golden=",)],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(flags: tuple[str, ...]) -> None:
    done = host("sanitized", *flags)
    assert done.returncode == 2
    assert "usage: wanrt-host [options] ENGINE" in done.stderr


def functions() -> set[str]:
    return set(re.findall(r"^WANRT_API .*?(wanrt_\w+)\(", HEADER, re.MULTILINE))


def test_the_abi_is_the_header_s_functions_alone() -> None:
    listed = check(
        "nm", "--dynamic", "--defined-only", "--no-demangle", BUILD / "plain" / "libwanrt.so"
    )
    assert {line.split()[-1] for line in listed.splitlines()} == functions()
    assert len(functions()) <= 26


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = host("plain", "--version").stdout
    assert said == f"wanrt-host {project['version']}, backends: onnxruntime\n"
    lists = (SOURCE / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.findall(r"WANRT_ABI_VERSION (\d+)", lists) == re.findall(
        r"#define WANRT_ABI_VERSION (\d+)", HEADER
    )


def configure(binary: Path, *flags: str, source: Path = SOURCE, prefix: Path | None = None) -> None:
    prefixes = ";".join(str(p) for p in (prefix, BUILD / "deps") if p)
    check("cmake", "-S", source, "-B", binary, f"-DCMAKE_PREFIX_PATH={prefixes}", *flags)
    check("cmake", "--build", binary, "-j2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared library, installed."""
    prefix = tmp_path_factory.mktemp("shared")
    check("cmake", "--install", BUILD / "plain", "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def static_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the static library."""
    binary = tmp_path_factory.mktemp("static")
    configure(binary, "-DBUILD_SHARED_LIBS=OFF", "-DWANRT_TOOL=OFF", "-DCMAKE_BUILD_TYPE=Debug")
    return binary


@pytest.fixture(scope="module")
def static(static_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static library, installed."""
    prefix = tmp_path_factory.mktemp("static")
    check("cmake", "--install", static_build, "--prefix", prefix)
    return prefix


@pytest.fixture(params=["shared", "static"])
def installed(request: pytest.FixtureRequest) -> Path:
    prefix: Path = request.getfixturevalue(request.param)
    return prefix


def test_a_project_that_finds_the_installed_package(installed: Path, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    inputs, (golden,) = expect(folder, tmp_path)
    configure(tmp_path / "b", source=SOURCE / "tests" / "consumer", prefix=installed)
    printed = check(tmp_path / "b" / "consumer", folder, inputs)
    assert np.array(printed.split(), np.float32).tobytes() == load_file(golden)["y"].tobytes()


def test_a_program_that_asks_pkg_config(installed: Path, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny())
    inputs, (golden,) = expect(folder, tmp_path)
    path = str(installed / "lib" / "pkgconfig")
    query = check("pkg-config", "--cflags", "--libs", "wanrt", PKG_CONFIG_PATH=path)
    program = tmp_path / "consumer"
    check(
        "c++",
        "-std=c++17",
        SOURCE / "tests" / "consumer" / "main.cpp",
        "-o",
        program,
        *query.split(),
    )
    printed = check(program, folder, inputs, LD_LIBRARY_PATH=str(installed / "lib"))
    assert np.array(printed.split(), np.float32).tobytes() == load_file(golden)["y"].tobytes()


def test_the_installed_tool_starts_where_it_is(shared: Path) -> None:
    assert check(shared / "bin" / "wanrt-host", "--version").startswith("wanrt-host ")


def test_a_library_without_the_backend_says_so(
    static_build: Path, static: Path, tmp_path: Path
) -> None:
    del static  # is installed before this build becomes another
    folder = make_engine(tmp_path / "engine", Tiny())
    configure(static_build, "-DWANRT_ONNXRUNTIME=OFF", "-DWANRT_TOOL=ON")
    tool = static_build / "wanrt-host"
    assert check(tool, "--version").endswith("backends: none\n")
    assert check(tool, "--info", folder)
    done = run(tool, folder)
    assert done.returncode == 1
    assert "needs the backend onnxruntime, which this libwanrt was built without" in done.stderr


def test_the_readme_s_program(shared: Path, tmp_path: Path) -> None:
    text = (SOURCE / "README.md").read_text(encoding="utf-8")
    program = text.split("```cpp\n")[1].split("```")[0]
    assert len(program.splitlines()) <= 20
    (tmp_path / "main.cpp").write_text(program)
    query = check("pkg-config", "--cflags", "--libs", "wanrt",
                  PKG_CONFIG_PATH=str(shared / "lib" / "pkgconfig"))  # fmt: skip
    check("c++", "-std=c++17", "-Wall", "-Werror", tmp_path / "main.cpp", "-o", tmp_path / "main",
          *query.split())  # fmt: skip
    folder = make_engine(
        tmp_path / "engine", Tiny(mode="swappable", max_rank=4, adapters=(2,), name="s")
    )
    adapter = folder / "adapters" / "r2.safetensors"
    inputs, (golden,) = expect(folder, tmp_path, (adapter,))
    printed = check(tmp_path / "main", folder, inputs, adapter, LD_LIBRARY_PATH=str(shared / "lib"))
    assert f"y begins with {load_file(golden)['y'][0, 0]:g}\n" == printed


def test_the_header_s_example_is_c(tmp_path: Path) -> None:
    example = HEADER.split("Rules for every function")[0].split("\n *\n", 1)[1]
    code = "\n".join(line.removeprefix(" *") for line in example.splitlines())
    program = f"""
        #include <stdio.h>
        #include <wanrt/wanrt.h>
        void *my_memory(const char *name, size_t bytes);
        void my_sampler_step(wanrt_tensor *sample);
        int use(int steps) {{ {code}
          return 0;
        }}"""
    (tmp_path / "example.c").write_text(program)
    check("cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only",
          f"-I{SOURCE / 'include'}", tmp_path / "example.c")  # fmt: skip


def test_every_function_has_its_rules() -> None:
    declared = re.findall(r"\*/\nWANRT_API .*?(wanrt_\w+)\(", HEADER)
    assert set(declared) == functions()
