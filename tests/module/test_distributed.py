"""Training spread over two processes, started as a user starts it: by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from places import ROOT


def run_in_two_processes(*arguments: str) -> str:
    """What distributed_worker.py prints."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(ROOT / "tests" / "distributed_worker.py"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_two_processes_are_one(device: str):
    """DistributedDataParallel and FSDP2: losses, weights and checkpoints of one process (gloo; NCCL between GPUs)."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs a GPU for each process")
    printed = run_in_two_processes(device, "lstm_fused")
    for kind in ("ddp", "fsdp"):
        for rank in range(2):
            assert f"process {rank} of 2: {kind} on {device} as in one process" in printed
