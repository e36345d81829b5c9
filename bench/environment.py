"""Where and on what a run was made: enough to tell whether two result files may be compared."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCE_SUFFIXES = {".h", ".hpp", ".cuh", ".cpp", ".cu"}


def describe(device: torch.device) -> dict[str, Any]:
    """Returns the versions, the machine and the state of the source, ready for JSON."""
    build = ROOT / "lstm_fused" / "_build.json"
    return {
        "device": device_name(device),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],  # programs that ran or waited for a core in the minute before the run
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain")),
        "csrc": source_hash(ROOT / "csrc"),
        "build": json.loads(build.read_text()) if build.exists() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver_version() if device.type == "cuda" else None,
        "platform": platform.platform(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"


def driver_version() -> str:
    """NVIDIA's driver, where its own tool is there to tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What the kernel reports of a core, such as `model name` and `flags`; nothing where it does not."""
    return dict(re.findall(r"^([\w ]+?)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)) if cpuinfo.exists() else {}


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The model name as the kernel reports it, with family and model number where it has no number that tells it from
    others (Zen 3 and Zen 4 are one family), or the architecture where there is none.
    """
    facts = cpu_facts(cpuinfo)
    name = facts.get("model name", "").strip()
    numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    if name and numbers and not re.search(r"\d", name):
        name += f" ({', '.join(numbers)})"
    return name or platform.processor() or platform.machine()


def slug(name: str) -> str:
    """A device name as a file name: `Xeon(R) Platinum 8481C, 2 threads` -> `xeon-platinum-8481c-2-threads`."""
    plain = re.sub(r"\((r|tm|c)\)", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def git(*arguments: str) -> str | None:
    """The output of a git command in this repository, or None outside of one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def source_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the C++ and CUDA files below `folder`, whatever else lies there."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SOURCE_SUFFIXES):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
