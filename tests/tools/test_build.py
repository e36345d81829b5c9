"""The build: what the libraries are tied to, where tools are looked for, what a user reads when one is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import pytest
import setup_file
import toolchain
import torch
from places import ROOT

import lstm_fused

PACKAGE = Path(lstm_fused.__file__).parent
OP_LIBRARY = PACKAGE / "liblstm_fused.so"
(PLAN_LIBRARY,) = PACKAGE.glob("_plan.*.so")


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def undefined_symbols(library: Path) -> set[str]:
    return {line.split()[-1] for line in run("nm", "-D", "--undefined-only", library).splitlines()}


def dynamic_entries(library: Path, kind: str) -> list[str]:
    return re.findall(rf"\({kind}\).*\[(.*)\]", run("readelf", "--dynamic", "--wide", library))


@pytest.fixture(scope="module")
def stable_symbols() -> set[str]:
    """Every name torch promises to keep for libraries that target the oldest torch we support."""
    folder = "torch/csrc/inductor/aoti_torch"
    headers = (f"{folder}/c/shim.h", f"{folder}/generated/c_shim_aten.h", "torch/csrc/stable/c/shim.h")
    target = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*toolchain.OLDEST_TORCH)
    flags = [target, "-DUSE_CUDA", f"-I{toolchain.find_torch().root / 'include'}", "-std=c++20", "-x", "c++"]
    flags += [word for header in headers for word in ("-include", header)]
    text = run(*toolchain.find_compiler(), "-E", *flags, "/dev/null")
    return set(re.findall(r"\b((?:aoti_torch|torch)_\w+)\(", text))


def test_op_library_needs_only_stable_torch_symbols(stable_symbols: set[str]) -> None:
    """C and C++ runtime symbols carry a version (name@GLIBC_2.2.5); all the others must be torch's stable shims."""
    unversioned = {name for name in undefined_symbols(OP_LIBRARY) if "@" not in name}
    unversioned -= {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}
    # Torch 2.10 exports some of C++'s own without a version, and the linker takes what it finds first.
    unversioned = {name for name in unversioned if not re.match(r"_ZN?K?R?St", name)}
    assert unversioned, "an op library without torch symbols registers nothing"
    assert unversioned - stable_symbols == set()


@pytest.mark.parametrize("library", [OP_LIBRARY, PLAN_LIBRARY], ids=["op", "plan"])
def test_libraries_hold_no_mangled_torch_names(library: Path) -> None:
    mangled = re.compile(r"^_Z\w*?(3c10|2at6|5torch)")
    assert [name for name in undefined_symbols(library) if mangled.match(name)] == []


def test_op_library_holds_no_python() -> None:
    assert [name for name in undefined_symbols(OP_LIBRARY) if re.match(r"_?Py", name)] == []


def test_libraries_need_no_more_than_they_say() -> None:
    """No Python, no CUDA library (a CPU torch has none), and torch as two names that every torch has."""
    system = {
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
        "libc.so.6",
        "libdl.so.2",
        "librt.so.1",
        "libpthread.so.0",
    }
    needed = {name for name in dynamic_entries(OP_LIBRARY, "NEEDED") if not name.startswith("ld-linux")}
    assert needed - system == {"libtorch.so", "libtorch_cpu.so"}
    assert {name for name in dynamic_entries(PLAN_LIBRARY, "NEEDED") if not name.startswith("ld-linux")} <= system
    assert dynamic_entries(OP_LIBRARY, "RUNPATH") + dynamic_entries(OP_LIBRARY, "RPATH") == ["$ORIGIN/../torch/lib"]
    assert dynamic_entries(PLAN_LIBRARY, "RUNPATH") + dynamic_entries(PLAN_LIBRARY, "RPATH") == []


def test_op_library_exports_no_cuda_runtime() -> None:
    """A second CUDA runtime in the process has to stay out of torch's sight."""
    exported = run("nm", "-D", "--defined-only", OP_LIBRARY)
    assert re.findall(r" (_*cuda\w+)", exported) == []


def test_build_info_tells_this_build() -> None:
    info = json.loads((PACKAGE / "_build.json").read_text())
    assert info["version"] == importlib.metadata.version("lstm_fused")
    assert info["torch"] == torch.__version__
    assert info["torch_target"] == "2.10"
    assert info["compiler"]
    assert torch.ops.lstm_fused.cpu_isa() in info["instruction_sets"]
    cuda = toolchain.find_cuda()
    assert info["cuda"] == (cuda and cuda.version)
    assert info["cuda_architectures"] == (cuda and [f"sm_{arch}" for arch in cuda.architectures])


# What is missing, and what the reader is told. -S hides every installed package, the empty folder every program.


def message_of(function: str, path: str, *options: str, **environment: str) -> str:
    command = [sys.executable, *options, "-c", f"import toolchain; toolchain.{function}()"]
    environment |= {"PATH": path, "PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        ("find_torch", r"Install torch first.* pip install --no-build-isolation \."),
        ("find_ninja", r"pip install ninja"),
        ("find_pybind11", r"pip install pybind11"),
        ("find_compiler", r"g\+\+ was not found.* Install g\+\+"),
    ],
)
def test_missing_tool_is_named_with_its_remedy(function: str, advice: str, tmp_path: Path) -> None:
    assert re.search(advice, message_of(function, str(tmp_path), "-S"))


def test_compiler_follows_cxx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "CXX=no-such-compiler was not found" in message_of("find_compiler", str(tmp_path), CXX="no-such-compiler")
    compiler = toolchain.find_compiler()[-1]
    monkeypatch.setenv("CXX", f"env {compiler} -m64")
    assert toolchain.find_compiler() == ["env", compiler, "-m64"]


@pytest.mark.parametrize(("version", "accepted"), [("2.9.1", False), ("2.9.1+cu128", False), ("2.10.0", True)])
def test_oldest_torch(version: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = {version!r}\ncuda = None\n")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)
    if accepted:
        assert toolchain.find_torch() == toolchain.Torch(tmp_path / "torch", version, None)
    else:
        with pytest.raises(SystemExit, match=rf"needs torch 2\.10 or later and found {re.escape(version)}"):
            toolchain.find_torch()


# A CUDA toolkit is a folder with nvcc, a header and a static library; here nvcc is a script that answers as nvcc does.


def make_toolkit(root: Path, version: str = "13.0", gpus: str = "sm_75 sm_80 sm_90 sm_100 sm_120") -> Path:
    for name in ("include/cuda_runtime.h", "lib/libcudart_static.a", "bin/nvcc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    nvcc = root / "bin" / "nvcc"
    nvcc.write_text(
        f"""#!/bin/sh
case $1 in
  --version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
  --list-gpu-code) echo "{gpus}" ;;
  --dryrun) echo '#$ TOP={root}/bin/..' >&2 ;;
esac
"""
    )
    nvcc.chmod(0o755)
    return root


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A C++ compiler, and no toolkit: not in a variable, on PATH, among the packages or in the usual folder."""
    compiler = shutil.which(toolchain.find_compiler()[0])
    assert compiler is not None
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / Path(compiler).name).symlink_to(compiler)
    monkeypatch.setenv("PATH", str(programs))
    for name in ("CUDA_HOME", "CUDA_PATH", "FORCE_CUDA", "LSTM_FUSED_CUDA"):
        monkeypatch.delenv(name, raising=False)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nvidia" else find_spec(name))
    monkeypatch.setattr(toolchain, "DEFAULT_CUDA", tmp_path / "no-toolkit")
    return tmp_path


def test_no_toolkit(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain.find_cuda() is None
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match=r"no CUDA toolkit was found\. Set \$CUDA_HOME, .*requirements-cuda\.txt"):
        toolchain.find_cuda()


@pytest.mark.parametrize("place", ["CUDA_HOME", "CUDA_PATH", "PATH", "packages", "default"])
def test_toolkit_is_found(place: str, bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_toolkit(bare_machine / "site" / "nvidia" / "cu13")
    if place == "PATH":  # a wrapper far from the toolkit
        wrapper = bare_machine / "programs" / "nvcc"
        wrapper.write_text(f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
        wrapper.chmod(0o755)
    elif place == "packages":
        packages = PathFinder.find_spec("nvidia", [str(bare_machine / "site")])
        monkeypatch.setattr(importlib.util, "find_spec", {"nvidia": packages}.get)
    elif place == "default":
        monkeypatch.setattr(toolchain, "DEFAULT_CUDA", root)
    else:
        monkeypatch.setenv(place, str(root))
    found = toolchain.find_cuda()
    assert found == toolchain.Cuda(root, "13.0", ("80", "90a", "100", "120"), root / "lib")
    monkeypatch.setenv("LSTM_FUSED_CUDA", "0")
    assert toolchain.find_cuda() is None


def test_kernels_for_a_driver_or_for_what_has_them(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(bare_machine / "toolkit")))
    monkeypatch.setenv("LSTM_FUSED_CUDA", "driver")
    driver, built = bare_machine / "driver", bare_machine / "_build.json"
    monkeypatch.setattr(toolchain, "DRIVERS", (str(driver),))
    monkeypatch.setattr(toolchain, "BUILD_INFO", built)
    assert toolchain.find_cuda() is None  # a fresh clone
    monkeypatch.setenv("FORCE_CUDA", "1")  # what is forced is not left out in silence
    assert toolchain.find_cuda() is not None
    monkeypatch.delenv("FORCE_CUDA")
    for version in (None, "13.0"):
        built.write_text(json.dumps({"cuda": version}))
        assert (toolchain.find_cuda() is None) == (version is None)
    built.unlink()
    driver.touch()
    assert toolchain.find_cuda() is not None


def test_incomplete_toolkit_is_passed_over(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incomplete = make_toolkit(bare_machine / "incomplete")
    (incomplete / "include" / "cuda_runtime.h").unlink()
    monkeypatch.setenv("CUDA_HOME", str(incomplete))
    monkeypatch.setenv("CUDA_PATH", str(make_toolkit(bare_machine / "complete")))
    found = toolchain.find_cuda()
    assert found is not None
    assert found.root == bare_machine / "complete"


def test_older_toolkit_builds_for_the_gpus_it_knows(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(bare_machine / "old", "12.4", "sm_80 sm_86 sm_90")))
    found = toolchain.find_cuda()
    assert found is not None
    assert found.gencode() == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(bare_machine / "new", "13.0", "sm_80 sm_90 sm_100 sm_110 sm_120")))
    found = toolchain.find_cuda()
    assert found is not None
    assert found.gencode()[-2:] == [  # 11.0 runs the first
        "-gencode=arch=compute_100,code=compute_100",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(bare_machine / "ancient", "10.2", "sm_70 sm_75")))
    with pytest.raises(SystemExit, match="newer toolkit, or set LSTM_FUSED_CUDA=0"):
        toolchain.find_cuda()


# The ninja file


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    return setup_file.load()


def flags_by_object(text: str) -> dict[str, str]:
    return dict(re.findall(r"^build build/x/(\S+): cxx .*\n  flags = (.*)$", text, re.MULTILINE))


def test_instruction_sets_stay_in_their_folder(setup_py: ModuleType) -> None:
    """One object per source and instruction set; a wheel built here has to start on a machine without AVX."""
    text = setup_py.ninja_file(Path("build/x"), "_plan.so", toolchain.find_torch(), None)
    flags = flags_by_object(text)
    sources = [path.name for path in (ROOT / "csrc" / "cpu" / "isa").glob("*.cpp")]
    per_isa = {name: value for name, value in flags.items() if name.startswith("csrc/cpu/isa/")}
    assert per_isa == {
        f"csrc/cpu/isa/{source}.{isa}.o": f"{options} -DLSTM_FUSED_ISA={isa}"
        for source in sources
        for isa, options in setup_py.instruction_sets().items()
    }
    assert [name for name, value in flags.items() if "-m" in value and name not in per_isa] == []
    assert "-march" not in text
    assert "fast-math" not in text


def test_torch_headers_are_seen_by_one_folder(setup_py: ModuleType) -> None:
    torch_root = toolchain.find_torch().root
    text = setup_py.ninja_file(Path("build/x"), "_plan.so", toolchain.find_torch(), None)
    seeing = {name for name, value in flags_by_object(text).items() if str(torch_root / "include") in value}
    sources = {path.relative_to(ROOT) for path in (ROOT / "csrc" / "torch").rglob("*.cpp")}
    assert seeing == {f"{path}.o" for path in sources if path.parent.name != "cuda"}


def needs_cuda(source: Path) -> bool:
    return re.search(r"LSTM_FUSED_CUDA|<cuda", source.read_text()) is not None


def test_cuda_in_the_ninja_file(setup_py: ModuleType, bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_here = toolchain.find_torch()
    without = setup_py.ninja_file(Path("build/x"), "_plan.so", torch_here, None)
    assert not re.search(r"nvcc|cudart|LSTM_FUSED_CUDA", without)
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(bare_machine / "toolkit")))
    text = setup_py.ninja_file(Path("build/x"), "_plan.so", torch_here, toolchain.find_cuda())
    using = {name for name, value in flags_by_object(text).items() if "-DLSTM_FUSED_CUDA -isystem" in value}
    folders = {Path(name).parent.as_posix() for name in using}
    assert folders == {"csrc/kernels"}  # nothing else is compiled anew when CUDA comes to a build
    in_need = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.cpp") if needs_cuda(path)}
    assert in_need and {f"{name}.o" for name in in_need} <= using
    assert re.search(r"rule nvcc\n  command = .*code=sm_90a .*code=compute_120 ", text)
    assert re.search(r"rule link\n  command = .*-lcudart_static .*--exclude-libs,ALL", text)


@pytest.mark.parametrize(
    ("exit_code", "said"), [(0, ""), (0, "x.cu(3): warning: unused"), (1, "x.cu(3): error: expected a ;")]
)
def test_resource_report_is_kept_and_the_rest_is_shown(
    setup_py: ModuleType, tmp_path: Path, exit_code: int, said: str
) -> None:
    report = "ptxas info    : Used 72 registers\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    report += f"{said}\n" if said else ""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{report}END\nexit {exit_code}\n")
    nvcc.chmod(0o755)
    command = setup_py.with_report(str(nvcc)).replace("$out", str(tmp_path / "x.o"))
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (exit_code, said)
    assert (tmp_path / "x.o.resources").read_text() == report


# A GPU machine: what `make gpu` runs there needs few packages, as often no other can be installed.

ABSENT = ("hypothesis", "expecttest", "onnx", "onnxruntime", "onnxscript", "ziglang", "ruff", "mypy")


@pytest.mark.parametrize(
    "run",
    [
        "import pytest; code = pytest.main([*{tests}, '-q', '--collect-only', '-m', 'gpu'])",
        "import bench.__main__, bench.constants, bench.plot; code = 0",
        "import lstm_fused.__main__, toolchain, sys; sys.path.append('tests/gpu'); import sanitize; code = 0",
    ],
    ids=["tests", "bench", "self-check"],
)
def test_gpu_script_does_without_other_packages(run: str) -> None:
    script = (ROOT / "tools" / "gpu.sh").read_text()
    tests = sorted(set(re.findall(r"tests/\w+/?\w+\.py", script)) - {"tests/gpu/sanitize.py"})
    assert "tests/gpu/test_cuda_accuracy.py" in tests and "tests/module/test_compile.py" in tests
    hide = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    code = f"{hide}\n{run.format(tests=tests)}\nsys.exit(code)"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tools")))
    environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
