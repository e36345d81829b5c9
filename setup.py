"""Writes one build.ninja for g++ and nvcc, runs it, and puts the two libraries where the package looks for them.

liblstm_fused.so is the op library: torch's stable ABI, no Python inside. _plan is the planner, and a stream's step,
seen from Python: pybind11, no torch. A build is incremental, and build/ninja/*.ninja shows every command. The
environment may set CXX, CXXFLAGS, LDFLAGS, MAX_JOBS, CUDA_HOME, LSTM_FUSED_CUDA=0 (build without CUDA), =driver (only
where there is an NVIDIA driver, or the last build had CUDA), FORCE_CUDA=1 (or fail without) and LSTM_FUSED_CPU=here
(leave out what this CPU cannot run or has better than, unless the last build had it).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

import toolchain  # noqa: E402  (a build backend does not put this folder on the path)

FLAGS = "-O3 -std=c++20 -fPIC -fvisibility=hidden -Wall -Wextra -ffp-contract=fast -Icsrc".split()
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*toolchain.OLDEST_TORCH)
# csrc/cpu/isa is compiled once for each set of a machine, chosen from at run time; all else runs on any such machine.
INSTRUCTION_SETS = {
    "x86_64": {
        "baseline": "",
        "avx2": "-mavx2 -mfma -mf16c",
        "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mf16c",
        "avx512_bf16": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx512bf16 -mavx2 -mfma -mf16c",
    },
    # Every aarch64 has it. Scheduled before registers are given out, a tile that fills them would be spilled.
    "aarch64": {"neon": "-fno-schedule-insns"},
}


def instruction_sets() -> dict[str, str]:
    """Those of the machine that is compiled for, with their flags; with LSTM_FUSED_CPU=here of this one alone."""
    every = INSTRUCTION_SETS.get(toolchain.find_machine(), {"baseline": ""})
    built = toolchain.last_build().get("instruction_sets", ())
    if os.environ.get("LSTM_FUSED_CPU") != "here" or set(every) <= set(built):
        return every
    has = toolchain.macros("-march=native")  # __AVX2__ for -mavx2
    wanted = {isa: {f"__{name.upper()}__" for name in re.findall(r"-m(\w+)", flags)} for isa, flags in every.items()}
    *_, widest = (isa for isa in every if wanted[isa] <= has)
    return {isa: every[isa] for isa in every if isa in (widest, widest.partition("_")[0])}  # avx512_bf16 needs avx512


def command(*words: str | Path) -> str:
    """The words as one shell command inside a ninja file."""
    return shlex.join(map(str, words)).replace("$", "$$")


def with_report(compile: str) -> str:
    """An nvcc command whose resource report goes to $out.resources; what else it says, a warning or error, is shown."""
    show = "grep -v -e 'ptxas info' -e 'bytes stack frame' $out.resources"
    return f"{compile} 2> $out.resources && {{ {show} || true; }} || {{ {show}; false; }}"


@dataclass
class NinjaFile:
    """The text of a build.ninja, with paths relative to the repository, so that no machine's paths enter the code."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    def rule(self, name: str, text: str, *details: str) -> None:
        self.lines += [f"rule {name}", f"  command = {text}", f"  description = {name} $out"]
        self.lines += [f"  {detail}" for detail in details]

    def compile(self, rule: str, pattern: str, flags: str = "", tag: str = "") -> list[str]:
        """Adds every source that matches the pattern; the objects' names."""
        objects = []
        for source in sorted(ROOT.glob(pattern)):
            name = source.relative_to(ROOT).as_posix()
            objects.append(f"{self.folder}/{name}{tag}.o")
            self.lines += [f"build {objects[-1]}: {rule} {name}", f"  flags = {flags}"]
        return objects

    def link(self, rule: str, name: str, objects: list[str]) -> None:
        self.lines.append(f"build {self.folder}/{name}: {rule} {' '.join(objects)}")


def ninja_file(folder: Path, plan_name: str, torch: toolchain.Torch, cuda: toolchain.Cuda | None) -> str:
    """The whole build: `folder` holds objects and libraries, `plan_name` is the file name of the pybind11 module."""
    cxx = toolchain.find_compiler()
    extra, extra_link = (shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    torch_flags = command(TORCH_TARGET, "-isystem", torch.root / "include")
    python_flags = command("-isystem", toolchain.find_pybind11(), "-isystem", sysconfig.get_path("include"))
    # libtorch.so has to be among the needed libraries for the weak reference to the current CUDA stream to resolve.
    libraries = [f"-L{torch.root / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed", "-ltorch_cpu"]
    # Python has loaded torch by then; a C++ program finds it next to an installed lstm_fused.
    libraries += ["-Wl,-rpath,$ORIGIN/../torch/lib", "-Wl,-z,defs"]
    cuda_flags = ""  # not in all commands: with or without CUDA most objects stay
    if cuda:
        cuda_flags = command("-DLSTM_FUSED_CUDA", "-isystem", cuda.root / "include")
        # Static and hidden, so that it never meets the CUDA runtime that torch brings.
        libraries += [f"-L{cuda.library_dir}", "-lcudart_static", "-lrt", "-ldl", "-lpthread", "-Wl,--exclude-libs,ALL"]

    ninja = NinjaFile(folder)
    depends = ("depfile = $out.d", "deps = gcc")
    ninja.rule("cxx", f"{command(*cxx, *FLAGS, *extra)} $flags -MD -MF $out.d -c $in -o $out", *depends)
    ninja.rule("link", f"{command(*cxx, '-shared')} $in -o $out {command(*libraries, *extra_link)}")
    ninja.rule("link_plan", f"{command(*cxx, '-shared')} $in -o $out {command(*extra_link)}")

    planner = ninja.compile("cxx", "csrc/plan/*.cpp")
    objects = planner + ninja.compile("cxx", "csrc/torch/*.cpp", torch_flags)
    objects += ninja.compile("cxx", "csrc/torch/cpu/*.cpp", torch_flags)
    objects += ninja.compile("cxx", "csrc/cpu/*.cpp") + ninja.compile("cxx", "csrc/kernels/*.cpp", cuda_flags)
    for isa, isa_flags in instruction_sets().items():
        objects += ninja.compile("cxx", "csrc/cpu/isa/*.cpp", f"{isa_flags} -DLSTM_FUSED_ISA={isa}", tag=f".{isa}")
    if cuda:
        objects += ninja.compile("cxx", "csrc/torch/cuda/*.cpp", torch_flags)
        # The host compiler is cxx's last word: a launcher such as ccache may stand before it.
        nvcc = [cuda.nvcc, "-ccbin", cxx[-1], "-O3", "-std=c++17", "-Icsrc", "-DLSTM_FUSED_CUDA", *cuda.gencode()]
        nvcc += ["-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "--resource-usage"]
        if int(cuda.version.split(".")[0]) >= 13:  # whose drivers all read it; a fifth of the usual size
            nvcc.append("--compress-mode=size")
        ninja.rule("nvcc", with_report(f"{command(*nvcc)} -MD -MF $out.d -c $in -o $out"), *depends)
        objects += ninja.compile("nvcc", "csrc/kernels/*.cu")
    ninja.link("link", "liblstm_fused.so", objects)
    bindings = ninja.compile("cxx", "csrc/python/*.cpp", python_flags, tag=f".{sys.implementation.cache_tag}")
    ninja.link("link_plan", plan_name, [*planner, *bindings])
    return "\n".join(ninja.lines) + "\n"


class NinjaBuild(build_ext):
    """build_ext that lets ninja build both libraries, for wheels, installs and (in place) editable installs alike."""

    def get_outputs(self) -> list[str]:
        names = ["liblstm_fused.so", Path(self.get_ext_filename("_plan")).name, "_build.json"]
        return [str(Path(self.build_lib, "lstm_fused", name)) for name in names]

    def get_output_mapping(self) -> dict[str, str]:
        built = self.get_outputs()
        return {path: str(Path("lstm_fused", Path(path).name)) for path in built} if self.inplace else {}

    def run(self) -> None:
        torch, cuda, ninja = toolchain.find_torch(), toolchain.find_cuda(), toolchain.find_ninja()
        machine = toolchain.find_machine()
        # Of all Pythons: nothing but _plan differs from one to the next.
        folder = Path("build", "ninja" if machine == toolchain.THIS_MACHINE else f"ninja-{machine}")
        ninja_name = f"{sys.implementation.cache_tag}.ninja"
        target = Path("" if self.inplace else self.build_lib, "lstm_fused")
        library, plan, info = (Path(path).name for path in self.get_outputs())
        if cuda and torch.cuda and cuda.version.split(".")[0] != torch.cuda.split(".")[0]:
            self.warn(f"kernels built with CUDA {cuda.version} may need a newer driver than torch's CUDA {torch.cuda}")
        for path in (ROOT / folder, ROOT / target):
            path.mkdir(parents=True, exist_ok=True)
        (ROOT / folder / ninja_name).write_text(ninja_file(folder, plan, torch, cuda))
        (ROOT / folder / info).write_text(json.dumps(self.build_info(torch, cuda), indent=2) + "\n")
        jobs = [f"-j{os.environ['MAX_JOBS']}"] if "MAX_JOBS" in os.environ else []
        # nvcc's threads, one for each architecture, are no part of its command: more of them call for no new build.
        threads = os.environ.get("MAX_JOBS", str(min(4, os.cpu_count() or 1)))
        environment = {"NVCC_APPEND_FLAGS": f"--threads={threads}"} | os.environ
        if subprocess.run([ninja, "-f", folder / ninja_name, *jobs], cwd=ROOT, env=environment).returncode:
            raise toolchain.BuildError("lstm_fused did not compile: the first error above says why.")
        for name in (library, plan, info):
            part = ROOT / target / f"{name}.part"  # renamed into place: a running process keeps its old library
            shutil.copy2(ROOT / folder / name, part)
            part.replace(ROOT / target / name)

    def build_info(self, torch: toolchain.Torch, cuda: toolchain.Cuda | None) -> dict[str, object]:
        """What `python -m lstm_fused` prints about the build."""
        asked = subprocess.run([*toolchain.find_compiler(), "--version"], capture_output=True, text=True)
        return {
            "version": self.distribution.get_version(),
            "compiler": asked.stdout.splitlines()[0],
            "instruction_sets": list(instruction_sets()),
            "cuda": cuda and cuda.version,
            "cuda_architectures": cuda and [f"sm_{arch}" for arch in cuda.architectures],
            "torch_target": ".".join(map(str, toolchain.OLDEST_TORCH)),
            "torch": torch.version,
        }


if __name__ == "__main__":
    setup(ext_modules=[Extension("lstm_fused._plan", sources=[])], cmdclass={"build_ext": NinjaBuild})
