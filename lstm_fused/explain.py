"""`explain`: which kernel runs a module on a device, with what tiles and cost, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import _plan, ops
from ._plan import DeviceInfo, Plan, Problem
from .options import CellOptions

__all__ = ["Plan", "VariantPlan", "built_kernels", "cpu_device", "cuda_device", "explain"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class VariantPlan:
    """The plan of a module whose cell is not the plain one. What it has not itself, it has from the plain cell's."""

    plain: Plan  # of the same sizes: how the CPU's threads share the work is its
    layer: Plan  # of what is launched at a time: one direction of one layer, in the type that computes it
    cell: CellOptions

    @property
    def kernel(self) -> str:
        """On a GPU "block", "cluster", "group" or, where every time step is a launch, "variant"; "none" where this
        build has none. On a CPU "variant"."""
        return "variant" if self.layer.kernel in ("step", "cpu") else self.layer.kernel

    @property
    def launches(self) -> int:
        """On a GPU: forward, the whole stack, input projections included."""
        problem, shown = self.plain.problem, self.layer.chosen or self.layer.candidates[0]
        return problem.num_layers * problem.num_directions * shown.launches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def __str__(self) -> str:
        shown = [line for line in str(self.plain).splitlines() if line.startswith(("problem", "device"))]
        if self.plain.device.is_cuda:
            shown += [self._of_layer(line) for line in str(self.layer).splitlines()[2:]]
            besides = "packed input is padded, half types are computed in float32, on tensor cores in TF32"
        else:
            cpu = self.plain.cpu
            assert cpu is not None
            shown += [
                "kernel     variant, one direction of one layer at a time",
                f"split      {cpu.split} over {cpu.num_tasks} threads, as the plain cell",
                "W_hh       packed once per call",
            ]
            besides = "no direct and one_step kernels, no infer; packed input is padded, half types are in float32"
        costs = {name: _COSTS[name] for name in self.cell._asdict() if f"{name}=" in str(self.cell)}
        return "\n".join([*shown, f"besides    {besides}", *(f"{name}: {cost}" for name, cost in costs.items())])

    def _of_layer(self, line: str) -> str:
        """A line of the layer's plan, as it is true of the module."""
        label = line.split(maxsplit=1)[0]
        if label == "kernel" and self.kernel != "none":
            every_step = "; as in step, launches at every time step" if self.kernel == "variant" else ""
            return f"kernel     {self.kernel}, one direction of one layer at a time{every_step}"
        if label == "launches":
            return f"launches   {self.launches} forward, input projections included"
        return line.replace("(", "(of the plain cell, ", 1) if label == "estimate" else line


# Of a step of one row, beside the plain cell's.
_COSTS = {
    "zoneout": "in training masks of P + H numbers a step are drawn and read; in inference a product and a sum a unit",
    "recurrent_dropout": "one mask a call, one product a unit; in inference nothing, the plain kernels run",
    "weight_dropout": "a dropped-out copy of W_hh a call; in inference nothing; rules out no kernel by itself",
    "cell_clip": "two comparisons a unit",
    "peephole": "three products a unit, 3 H parameters",
    "layer_norm": "mean and variance of 4H, 4H and H numbers, 18 H parameters; training keeps 8 H numbers more",
}


def explain(
    module: torch.nn.Module,
    input_shape: Sequence[int],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Plan | VariantPlan:
    """The plan that a call of `module` follows, without running it. Print it.

    Args:
        module: an LSTM or LSTMCell, of lstm_fused or of torch.nn. Training is planned where gradients are on and a
            parameter needs one.
        input_shape: the shape of the input as the module takes it: (T, B, I), (B, T, I) with batch_first, (T, I)
            unbatched; (B, I) or (I,) for a cell.
        dtype: element type; the module's own by default.
        device: a torch device, or the name of a GPU that need not be there: "A100", "H100", "H200", "B200",
            "RTX 4090" (case does not matter); the module's own by default.

    Returns:
        A read-only Plan; its estimates are in microseconds per time step and are estimates, not measurements. For a
        cell that is not the plain one a VariantPlan, which says what that costs and rules out.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    lstm = module if isinstance(module, torch.nn.RNNBase) and module.mode == "LSTM" else None
    cell = module if isinstance(module, torch.nn.RNNCellBase) and _num_gates(module) == 4 else None
    found = lstm or cell
    if found is None:
        raise TypeError(f"module: expected an LSTM or LSTMCell of lstm_fused or torch.nn, got {type(module).__name__}")
    weight = next(found.parameters())
    dtype = weight.dtype if dtype is None else dtype
    if dtype not in _DTYPES:
        error = ValueError if isinstance(dtype, torch.dtype) else TypeError
        raise error(f"dtype: expected one of {', '.join(map(str, _DTYPES))}, got {dtype!r}")
    batched = ("T", "B") if lstm else ("B",)
    if lstm and lstm.batch_first:
        batched = ("B", "T")
    sizes = _sizes(input_shape, (*batched, found.input_size), (*(("T",) if lstm else ()), found.input_size))
    problem = Problem(
        seq_len=sizes.get("T", 1),
        batch=sizes.get("B", 1),
        input_size=found.input_size,
        hidden_size=found.hidden_size,
        proj_size=lstm.proj_size if lstm else 0,
        num_layers=lstm.num_layers if lstm else 1,
        num_directions=2 if lstm and lstm.bidirectional else 1,
        dtype=str(dtype).removeprefix("torch."),
        allow_tf32=ops.allows_tf32(),
        training=torch.is_grad_enabled() and any(p.requires_grad for p in found.parameters()),
    )
    found_device, built = _find_device(weight.device if device is None else device), built_kernels()
    plan = _plan.plan(problem, found_device, built)
    options = getattr(module, "cell_options", None)
    if options is None or not options.varies(module.training):
        return plan
    layer = Problem(
        seq_len=problem.seq_len,
        batch=problem.batch,
        input_size=problem.input_size,
        hidden_size=problem.hidden_size,
        proj_size=problem.proj_size,
        dtype="float64" if problem.dtype == "float64" else "float32",
        allow_tf32=problem.allow_tf32 or dtype.itemsize == 2,
        training=problem.training,
        is_variant=True,
        has_norms=options.layer_norm,
    )
    return VariantPlan(plan, _plan.plan(layer, found_device, built), options)


def built_kernels() -> set[str]:
    """Names of the CUDA kernels in this build, such as "step_bfloat16_training"."""
    return set(filter(None, torch.ops.lstm_fused.kernels().split(",")))


def cpu_device() -> DeviceInfo:
    """This machine's CPU, with the number of threads and the instruction set that a call would use now."""
    return _plan.cpu_device(_plan.CpuFacts(torch.get_num_threads(), *torch.ops.lstm_fused.cpu_facts()))


def cuda_device(index: int) -> DeviceInfo:
    """A CUDA device of this machine. Raises RuntimeError in a build without CUDA."""
    return _plan.cuda_device(torch.cuda.get_device_name(index), torch.ops.lstm_fused.device_facts(index))


def _find_device(device: torch.device | str) -> DeviceInfo:
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device: expected a torch.device or a string, got {type(device).__name__}")
    named = {info.name.lower(): info for info in _plan.known_devices()}
    if isinstance(device, str) and device.lower() in named:
        return named[device.lower()]
    expected = f"cpu, cuda or one of {', '.join(info.name for info in named.values())}"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected {expected}, got {device!r}") from None
    if found.type == "cpu":
        return cpu_device()
    if found.type != "cuda":
        raise ValueError(f"device: expected {expected}, got {str(device)!r}")
    count = torch.cuda.device_count()
    index = found.index if found.index is not None else torch.cuda.current_device() if count else 0
    if index >= count:
        raise ValueError(f"device: torch sees {count} CUDA devices, got {str(device)!r}; expected {expected}")
    return cuda_device(index)


def _num_gates(cell: torch.nn.RNNCellBase) -> int:
    return cell.weight_ih.shape[0] // max(1, cell.hidden_size)


def _sizes(input_shape: Sequence[int], *forms: tuple[str | int, ...]) -> dict[str, int]:
    """T and B, as far as the first form that fits the shape names them; a form is such as ("T", "B", 64)."""
    try:
        shape = tuple(input_shape)
    except TypeError:
        raise TypeError(f"input_shape: expected a sequence of ints, got {input_shape!r}") from None
    if any(isinstance(size, bool) or not isinstance(size, int) for size in shape):
        raise TypeError(f"input_shape: expected a sequence of ints, got {input_shape!r}")
    for form in forms:
        if len(shape) == len(form) and shape[-1] == form[-1] and min(shape) >= 0:
            sizes = {str(name): size for name, size in zip(form[:-1], shape[:-1], strict=True)}
            if sizes.get("T") == 0:
                raise ValueError(f"input_shape: expected at least one time step, got {shape}")
            return sizes
    expected = " or ".join(str(form).replace("'", "") for form in forms)
    raise ValueError(f"input_shape: expected {expected}, got {shape}")
