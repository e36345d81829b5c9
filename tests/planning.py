"""The planner's answers for known GPUs, and for others that consist of their facts."""

from __future__ import annotations

from lstm_fused import _plan
from lstm_fused._plan import Candidate, Plan, Problem

DEVICES = {device.name: device for device in _plan.known_devices()}
DTYPES = ["float16", "bfloat16", "float32", "float64"]
KINDS = ["step", "block", "cluster", "group"]
KiB = 1024


def everything(kinds: list[str] = KINDS) -> set[str]:
    return {f"{kind}_{dtype}_{mode}" for kind in kinds for dtype in DTYPES for mode in ("training", "inference")}


def plan(device: str, built: set[str] | None = None, *, side_by_side: bool = False, **sizes) -> Plan:
    sizes = {"seq_len": 128, "batch": 16, "dtype": "bfloat16"} | sizes
    problem = Problem(**{"input_size": sizes["hidden_size"]} | sizes)
    return _plan.plan(problem, DEVICES[device], built or set(), side_by_side=side_by_side)


NO_CLUSTERS_TOLD = [0] * 16


def gpu(*facts: int, clusters: list[int] = NO_CLUSTERS_TOLD) -> _plan.DeviceInfo:
    return _plan.cuda_device("mine", [*facts, *clusters])


def candidate(device: str, kind: str, **sizes) -> Candidate:
    return next(found for found in plan(device, everything(), **sizes).candidates if found.kind == kind)
