"""`python -m bench.constants`: builds and runs the programs beside this file, and asks what torch.nn.LSTM launches."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import environment

sys.path.insert(0, str(environment.ROOT / "tools"))

import toolchain

HERE = Path(__file__).resolve().parent
RUN_LIMIT_S = 120
# What torch.nn.LSTM runs as decides what it costs: dtype, T, B, H, directions.
PEERS = [
    ("bfloat16", 32, 32, 64, 1),
    ("bfloat16", 32, 32, 256, 1),
    ("bfloat16", 32, 32, 1024, 1),
    ("bfloat16", 32, 4, 256, 1),
    ("float16", 32, 32, 256, 1),
    ("float32", 32, 32, 256, 2),
    ("float32", 32, 4, 256, 1),
]


@dataclass(frozen=True)
class Constant:
    name: str
    value: float
    unit: str
    question: str


def build(folder: Path, architecture: str) -> Path:
    """The program, compiled for one architecture such as `90a`."""
    cuda = toolchain.find_cuda()
    if cuda is None:
        raise SystemExit("bench.constants is compiled here, and no CUDA toolkit was found; set $CUDA_HOME")
    folder.mkdir(parents=True, exist_ok=True)
    compile = [cuda.nvcc, "-O3", "-std=c++17", f"-I{environment.ROOT / 'csrc'}"]
    compile += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    objects = {source: folder / f"{source.stem}.o" for source in sorted(HERE.glob("*.cu"))}

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True)

    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda pair: run(*compile, "-c", pair[0], "-o", pair[1]), objects.items()))
    program = folder / "constants"
    run(*compile, *objects.values(), "-o", program)
    return program


def measure(program: Path) -> tuple[list[Constant], str]:
    """What the program printed before it ended or its time was up, and what went wrong."""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=RUN_LIMIT_S)
        output, trouble = done.stdout, done.stderr.strip()
    except subprocess.TimeoutExpired as error:
        output, trouble = (error.stdout or b"").decode(), f"stopped after {RUN_LIMIT_S} s"
    return [Constant(**json.loads(line)) for line in output.splitlines()], trouble


def kernels_of_torch(dtype: str, seq_len: int, batch: int, hidden: int, directions: int) -> dict[str, int]:
    """The kernels of one forward and backward call of torch.nn.LSTM, each with its number of launches."""
    options = {"device": "cuda", "dtype": getattr(torch, dtype)}
    lstm = torch.nn.LSTM(hidden, hidden, bidirectional=directions == 2, **options)
    input = torch.randn(seq_len, batch, hidden, requires_grad=True, **options)
    lstm(input)[0].sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        lstm(input)[0].sum().backward()
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    return {event.key: event.count for event in events}


def markdown(where: dict, constants: list[Constant], trouble: str, peers: dict[str, dict[str, int]]) -> str:
    lines = [
        f"# Constants of {where['device']}",
        "",
        f"{where['date']}, {where['commit']}, csrc {where['csrc'][:12]}",
        "",
    ]
    lines += ["| measured | value | unit | for |", "| --- | ---: | --- | --- |"]
    lines += [f"| {c.name} | {c.value:,.4g} | {c.unit} | {c.question} |" for c in constants]
    lines += ["", f"Not measured: {trouble}"] if trouble else []
    for case, kernels in peers.items():
        lines += ["", f"torch.nn.LSTM, {case}, forward and backward:", ""]
        lines += [f"- {count} x `{name[:100]}`" for name, count in kernels.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.constants", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", default=environment.ROOT / "bench" / "results")
    parser.add_argument("--build-only", metavar="ARCH", help="compile for an architecture such as 90a, and stop")
    options = parser.parse_args()
    folder = environment.ROOT / "build" / "constants"
    if options.build_only:
        print(build(folder, options.build_only))
        return 0

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; --build-only ARCH compiles without one")
    capability = "".join(map(str, torch.cuda.get_device_capability()))
    known = {architecture.rstrip("a"): architecture for architecture in toolchain.ARCHITECTURES}
    constants, trouble = measure(build(folder, known.get(capability, capability)))
    peers = {f"{dtype} T{t} B{b} H{h} D{d}": kernels_of_torch(dtype, t, b, h, d) for dtype, t, b, h, d in PEERS}

    where = environment.describe(torch.device("cuda"))
    text = markdown(where, constants, trouble, peers)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{environment.slug(where['device'])}-constants.json"
    data = {"environment": where, "constants": [vars(c) for c in constants], "trouble": trouble, "torch": peers}
    path.write_text(json.dumps(data, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(text)
    print(f"wrote {path}")
    print(f"{len(constants)} constants; not measured: {trouble or 'none'}")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
