"""The op for CUDA tensors on the CPU: its own code and the kernels' own source, on the simulator of tests/sim."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ptx
import pytest
import simulation
import toolchain
import torch
from cases import Case
from places import ROOT

from lstm_fused import _plan, ops, variant_ops

HOST = [
    "tests/sim/op/ops.cpp",
    *(path for path in sorted(ROOT.glob("csrc/torch/*.cpp")) if path.stem != "ops"),
    *(path for path in sorted(ROOT.glob("csrc/torch/cuda/*.cpp")) if path.stem not in ("ops", "stream")),
    *sorted(ROOT.glob("csrc/plan/*.cpp")),
    "csrc/kernels/table.cpp",
]


H100 = next(device for device in _plan.known_devices() if device.name == "H100")


def planned(kind: str, case: Case, *, training: bool = True, allow_tf32: bool = False) -> _plan.Candidate:
    """What the planner has in mind for the case where this kind runs, on the GPU that is simulated.

    kind: or "group_stack", as LSTM_FUSED_KERNEL has it.
    """
    names = ("seq_len", "input_size", "hidden_size", "proj_size", "num_layers")
    problem = _plan.Problem(
        **{name: getattr(case, name) for name in names},
        batch=case.rows,
        num_directions=case.directions,
        dtype=str(case.dtype).removeprefix("torch."),
        allow_tf32=allow_tf32,
        training=training,
    )
    kind, stack, _ = kind.partition("_stack")
    candidates = _plan.plan(problem, H100, side_by_side=bool(stack)).candidates
    return next(found for found in candidates if found.kind == kind)


# What executes a kernel: its source as C++, or what nvcc makes of it for one of these architectures.
MACHINES = ["twin", "sm_80", "sm_90a"]


class Simulator:
    """Runs lstm_fused on the simulated GPU while `running` is entered."""

    def __init__(
        self, machine: str = "twin", *, sanitized: bool = False, kernels: Sequence[Path] = ptx.KERNELS
    ) -> None:
        """kernels: the sources that PTX is made of, where it is PTX that runs."""
        self.machine = machine
        self._kernels = kernels
        torch_root = toolchain.find_torch().root
        target = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*toolchain.OLDEST_TORCH)
        flags = ["-DLSTM_FUSED_CUDA", target, "-isystem", str(torch_root / "include")]
        path = simulation.build(
            "ops.so",
            ptx.KERNELS,
            "sanitized" if sanitized else "normal",
            objects=simulation.compiled("host", HOST, "normal", flags),
            flags=flags,
            # Names are visible, for those of the kernels, and still this library's own.
            link_flags=["-Wl,-Bsymbolic", f"-L{torch_root / 'lib'}", "-ltorch", "-ltorch_cpu"],
        )
        torch.ops.load_library(str(path))
        self._library = ctypes.CDLL(str(path))
        self.ops = torch.ops.lstm_fused_sim
        names = "sim_launches sim_max_shared_bytes sim_num_launched sim_launched_threads sim_cycles_of".split()
        types = dict.fromkeys(names, ctypes.c_int64) | dict.fromkeys(
            ["sim_use_ptx", "sim_launched", "sim_cost"], ctypes.c_char_p
        )
        for name, result in types.items():
            getattr(self._library, name).restype = result
        self._library.sim_executed.restype = ctypes.c_uint64
        self._library.sim_found_who_starves.restype = ctypes.c_bool
        self._is_watched = False

    def _choose_kernels(self) -> None:
        self._library.sim_watch_waits(self._is_watched)
        if error := self._library.sim_use_ptx(self._folder().encode()):
            raise RuntimeError(error.decode())

    def _folder(self) -> str:
        if self.machine == "twin":
            return ""
        architecture = self.machine.removeprefix("sm_")
        if not self._is_watched:
            return str(ptx.build(architecture, self._kernels))
        in_bfloat16 = [path for path in ptx.KERNELS if "bfloat16" in path.stem]  # enough for tests of watchdogs
        return str(ptx.build(architecture, in_bfloat16, flags=["-DLSTM_FUSED_WATCHDOG"]))

    @contextmanager
    def running(
        self, kind: str = "block", allow_tf32: bool = False, seed: int = 0, *, num_sms: int = 0, room: int | None = None
    ) -> Iterator[None]:
        """lstm_fused's ops are the simulated ones, by kernels of this kind; schedules come of the seed.

        `num_sms`: of the GPU, 0 for an H100's; `room`: for how many blocks at once, if not for all that it promises.
        """

        self._choose_kernels()
        self._library.sim_reset_counts()
        self.set_seed(seed)
        self._library.sim_set_device(num_sms)
        self._library.sim_set_max_resident_blocks(num_sms if room is None else room)
        self._library.sim_set_num_sms(num_sms if room is None else 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LSTM_FUSED_KERNEL", kind)
            for name in ("forward", "infer", "backward"):
                patch.setattr(ops, f"_{name.upper()}", getattr(self.ops, name))
            patch.setattr(variant_ops, "_VARIANT", self.ops.variant)
            patch.setattr(variant_ops, "_BACKWARD", self.ops.variant_backward)
            patch.setattr(ops, "uses_tf32", lambda input: allow_tf32)
            # What torch.empty returns is full of NaN, so that a read of memory that nobody wrote shows.
            torch.use_deterministic_algorithms(True)
            try:
                yield
            finally:
                torch.use_deterministic_algorithms(False)

    def set_seed(self, seed: int) -> None:
        """Of the schedules of all later launches."""
        self._library.sim_set_seed(ctypes.c_uint64(seed))

    @contextmanager
    def without_barrier(self, file_name: str, line: int) -> Iterator[None]:
        """The barrier at this line of a kernel does nothing."""
        self._library.sim_skip_barrier(file_name.encode(), line)
        try:
            yield
        finally:
            self._library.sim_skip_barrier(b"", 0)

    @contextmanager
    def without_messages(self, file_name: str, line: int) -> Iterator[None]:
        """What the second block of a group or cluster sends from this line of a kernel never arrives."""
        self._library.sim_lose_messages(file_name.encode(), line)
        try:
            yield
        finally:
            self._library.sim_lose_messages(b"", 0)

    def starved(self, what: str) -> Iterator[int]:
        """A number for each warp or block there is, or one for "last": while it is used, the schedule starves that."""
        kinds = ["nobody", "warp", "block", "last"]
        try:
            for number in range(1 if what == "last" else 10**6):
                self._library.sim_starve(kinds.index(what), number)
                yield number
                if not self._library.sim_found_who_starves():
                    return
        finally:
            self._library.sim_starve(0, 0)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Kernels wait as in a build with LSTM_FUSED_WATCHDOG."""
        self._is_watched = True
        self._choose_kernels()
        try:
            yield
        finally:
            self._is_watched = False
            self._choose_kernels()

    def executed(self) -> dict[str, int]:
        """PTX instructions that threads have executed, by class, since the program began."""
        classes = ["mma", "shared", "global", "special", "barriers", "waits", "other"]  # of tests/sim/ptx/module.h
        return {name: self._library.sim_executed(n) for n, name in enumerate(classes)}

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Launches go forward in the order of the time that they would take by the table of tests/sim/ptx/costs.cpp."""
        self._library.sim_time(True)
        try:
            yield
        finally:
            self._library.sim_time(False)

    def cycles(self) -> dict[str, int]:
        """Of all timed launches so far, one after the other: what their critical paths consist of."""
        parts = "slots arithmetic product special shared global barrier exchange".split()  # of costs.h
        return {name: self._library.sim_cycles_of(n) for n, name in enumerate(parts)}

    def costs(self) -> list[list[str]]:
        """That table: what, slots of a scheduler, cycles of a pipe, latency, and where the figures are from."""
        rows: list[list[str]] = []
        while row := self._library.sim_cost(len(rows)):
            rows.append(row.decode().split("|"))
        return rows

    def launched(self) -> list[tuple[str, int]]:
        """PTX kernels since the program began: name and template arguments, and threads of the grid."""
        of = self._library
        return [
            (of.sim_launched(n).decode(), of.sim_launched_threads(n))
            for n in map(ctypes.c_int64, range(of.sim_num_launched()))
        ]

    def launches(self) -> int:
        """Of kernels since `running` was entered."""
        return self._library.sim_launches()

    def max_shared_bytes(self) -> int:
        """Of any of those launches."""
        return self._library.sim_max_shared_bytes()
