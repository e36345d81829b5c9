"""The planner (csrc/plan): problem and device in, plan out, as data. All attributes are read-only."""

from collections.abc import Sequence
from typing import Any, Literal

class Problem:
    def __init__(
        self,
        *,
        seq_len: int = 1,
        batch: int = 1,
        input_size: int = 1,
        hidden_size: int = 1,
        proj_size: int = 0,
        num_layers: int = 1,
        num_directions: int = 1,
        dtype: str = "float32",
        allow_tf32: bool = False,
        training: bool = False,
        has_lengths: bool = False,
        has_reset: bool = False,
        is_variant: bool = False,
        has_norms: bool = False,
    ) -> None: ...
    @property
    def seq_len(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def proj_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_directions(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def allow_tf32(self) -> bool: ...
    @property
    def training(self) -> bool: ...
    @property
    def has_lengths(self) -> bool: ...
    @property
    def has_reset(self) -> bool: ...
    @property
    def is_variant(self) -> bool: ...
    @property
    def has_norms(self) -> bool: ...

class DeviceInfo:
    @property
    def name(self) -> str: ...
    @property
    def is_cuda(self) -> bool: ...
    @property
    def compute_capability(self) -> int:
        """10 * major + minor."""
    @property
    def num_sms(self) -> int: ...
    @property
    def shared_bytes_per_block(self) -> int: ...
    @property
    def shared_bytes_per_sm(self) -> int: ...
    @property
    def registers_per_sm(self) -> int: ...
    @property
    def l2_bytes(self) -> int: ...
    @property
    def max_cluster_size(self) -> int: ...
    @property
    def clock_mhz(self) -> int: ...
    @property
    def memory_gb_per_s(self) -> int: ...
    @property
    def resident_clusters(self) -> list[int]: ...
    @property
    def cpu(self) -> CpuFacts: ...

class CpuFacts:
    def __init__(
        self,
        num_threads: int = ...,
        vector_bytes: int = ...,
        multiplies_pairs: bool = ...,
        l2_bytes: int = ...,
        l1_bytes: int = ...,
    ) -> None: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def vector_bytes(self) -> int: ...
    @property
    def multiplies_pairs(self) -> bool: ...
    @property
    def l2_bytes(self) -> int: ...
    @property
    def l1_bytes(self) -> int: ...

class Candidate:
    """One kernel kind: refused with a reason, or legal with its sizes and an estimate."""

    @property
    def kind(self) -> Literal["step", "block", "cluster", "group", "cpu"]: ...
    @property
    def legal(self) -> bool: ...
    @property
    def built(self) -> bool: ...
    @property
    def reason(self) -> str:
        """Why it is not chosen; empty for the chosen one."""
    @property
    def register_bytes(self) -> int:
        """Of W_hh, and of W_ih where the input is fused, per block."""
    @property
    def shared_bytes(self) -> int:
        """Per block."""
    @property
    def launches(self) -> int:
        """Forward, the whole stack, input projections included."""
    @property
    def us_per_step(self) -> float:
        """Estimated, not measured: one time step of one layer, forward, all its directions, recurrence only."""
    @property
    def launch_us_per_step(self) -> float:
        """Of it, what `step` takes to launch kernels."""
    @property
    def blocks_per_group(self) -> int: ...
    @property
    def num_groups(self) -> int: ...
    @property
    def units_per_block(self) -> int: ...
    @property
    def rows_per_group(self) -> int: ...
    @property
    def threads_per_block(self) -> int: ...
    @property
    def layers_at_once(self) -> int:
        """Layers of a stack that one launch runs side by side, forward."""
    @property
    def backward_layers_at_once(self) -> int: ...
    @property
    def fuses_input(self) -> bool:
        """Whether the kernel multiplies the first layer's input by W_ih itself; otherwise a GEMM does."""

class CpuPlan:
    @property
    def split(self) -> Literal["rows", "gates"]: ...
    @property
    def num_tasks(self) -> int: ...
    @property
    def kernel(self) -> Literal["packed", "direct", "one_step"]:
        """W_hh is packed once per call; or read where it lies at every step; or T = 1, and all weights are read where
        they lie, once, many rows at a time."""
    @property
    def direct_w_ih(self) -> bool:
        """Read where it lies, rather than packed for x W_ih^T."""

class Plan:
    """Printing it says what runs, what it costs and why every other candidate does not run."""

    @property
    def problem(self) -> Problem: ...
    @property
    def device(self) -> DeviceInfo: ...
    @property
    def candidates(self) -> list[Candidate]:
        """Legal ones first, fastest first."""
    @property
    def chosen(self) -> Candidate | None: ...
    @property
    def kernel(self) -> Literal["step", "block", "cluster", "group", "cpu", "none"]:
        """The chosen kind; "none" where this build has no kernel for the problem."""
    @property
    def cpu(self) -> CpuPlan | None:
        """How the threads share the work; None for a CUDA device."""

def plan(problem: Problem, device: DeviceInfo, built: set[str] = ..., side_by_side: bool = False) -> Plan:
    """side_by_side: `group` takes as many layers at once as it has room for, whether or not that is faster."""

def step_parts(problem: Problem, device: DeviceInfo, kind: str, backward: bool = False) -> dict[str, float]:
    """Of the modelled critical path of a time step (csrc/plan/cost.cpp): how often each part of it occurs."""

def plan_cpu(problem: Problem, cpu: CpuFacts) -> CpuPlan: ...
def cpu_device(cpu: CpuFacts) -> DeviceInfo: ...
def cuda_device(name: str, facts: Sequence[int]) -> DeviceInfo: ...
def known_devices() -> list[DeviceInfo]: ...
def prefer_large_pages(address: int, bytes: int) -> None: ...

STREAM_ROWS: int  # csrc/cpu/stream.h

class StreamGuard:
    """Of one thread at a time, as a context, and of parameters that are watched: csrc/python/stream_guard.h."""

    def __init__(self, tensor_type: type) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...
    def watch(self, parameters: list[tuple[dict[str, Any], str, Any]]) -> None: ...
    def unchanged(self) -> bool: ...

class StreamStep(StreamGuard):
    """A call of lstm_fused.Stream: csrc/python/stream.cpp. Addresses as there."""

    def __init__(
        self,
        *,
        tensor_type: type,
        run: int,
        is_double: bool,
        batch: int,
        input_size: int,
        hidden_size: int,
        proj_width: int,
        weights: int,
        layers: list[list[int]],
        memory: list[int],
        bytes_stride: int,
        step_bytes: int,
    ) -> None: ...
    def __call__(self, x: Any, out: Any) -> Any: ...
