"""Export to ONNX: a model's LSTMs become ONNX's own LSTM operator, which every ONNX runtime knows.

Needs the packages ``onnx`` and ``onnxscript``, as ``torch.onnx.export(dynamo=True)`` does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as onnx_op
from onnxscript.optimizer import fold_constants, remove_unused_nodes

op: Any = onnx_op  # its annotations know no sequences and no symbolic sizes
INT32 = ir.DataType.INT32.value


def export(model: Any, args: tuple[Any, ...] = (), f: Any = None, **kwargs: Any) -> torch.onnx.ONNXProgram:
    """:func:`torch.onnx.export` for a model with LSTMs of this library, in inference.

    Args:
        model: a module, in eval mode, or a ``torch.export.ExportedProgram``.
        args: positional arguments of an example call.
        f: the file to write; None to write none.
        kwargs: anything that ``torch.onnx.export(dynamo=True)`` takes, such as ``kwargs`` and ``dynamic_shapes``.

    Returns:
        The program. ``lengths`` has become ONNX's sequence_lens, and the weights stand in ONNX's order as constants.

    Raises:
        NotImplementedError: for what ONNX's LSTM has no word for: ``reset``, ``return_cells``, a projection, active
            dropout, and of the cell's options all but peepholes. (Its ``clip`` is of what the gates are taken of.)
    """
    saving = {name: kwargs.pop(name) for name in ("external_data", "keep_initializers_as_inputs") if name in kwargs}
    table = {**translation_table(), **(kwargs.pop("custom_translation_table", None) or {})}
    try:
        program = torch.onnx.export(model, args, dynamo=True, custom_translation_table=table, **kwargs)
    except torch.onnx.OnnxExporterError as error:
        for cause in _causes(error):
            if isinstance(cause, NotImplementedError) and str(cause).startswith("ONNX's LSTM"):
                raise cause from None
        raise
    assert program is not None
    _refuse((_reads_cells(program.exported_program), "`return_cells`"))
    own = _nodes_of_weights(program.model)
    fold_constants(program.model, should_fold=lambda node: node in own or None)
    remove_unused_nodes(program.model)
    if f is not None:
        program.save(f, **saving)
    return program


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``custom_translation_table`` of ``torch.onnx.export``, where :func:`export` does not fit."""
    return {torch.ops.lstm_fused.forward.default: _forward, torch.ops.lstm_fused.variant.default: _variant}


def _forward(
    input: Any,
    h_0: Any,
    c_0: Any,
    weights: Sequence[Any],
    bidirectional: bool,
    lengths: Any,
    reset: Any,
    dropout_mask: Any,
    training: bool,
    return_cells: bool,
    allow_tf32: bool,
    recompute_gates: bool = False,
) -> tuple[Any, ...]:
    """The results of the op (lstm_fused/ops.py) as ONNX values, layer by layer."""
    hidden_size, projected = c_0.shape[2], h_0.shape[2] != c_0.shape[2]
    _refuse(
        (reset is not None, "`reset`"),
        (return_cells, "`return_cells`"),
        (projected, "`proj_size`"),
        (dropout_mask is not None, "dropout in training (call model.eval() before)"),
    )
    num_directions = 2 if bidirectional else 1
    per_direction = len(weights) // h_0.shape[0]
    sequence_lens = None if lengths is None else op.Cast(lengths, to=INT32)

    def stacked(layer: int, n: int) -> Any:
        """The n-th weight of each direction, (D, 4H, ...), its gates i, f, g, o in ONNX's order i, o, f, g."""
        first = layer * num_directions
        both = [weights[d * per_direction + n] for d in range(first, first + num_directions)]
        both = [_in_order(w, hidden_size, _GATES) for w in both]
        return op.Concat(*(op.Unsqueeze(w, _numbers(0)) for w in both), axis=0)

    x, all_h, all_c = input, [], []
    for layer in range(h_0.shape[0] // num_directions):
        biases = op.Concat(stacked(layer, 2), stacked(layer, 3), axis=1) if per_direction == 4 else None
        y, h_n, c_n = op.LSTM(
            x,  # (T, B, I or D*H)
            stacked(layer, 0),
            stacked(layer, 1),
            biases,
            sequence_lens,
            _slice(h_0, layer * num_directions, num_directions),
            _slice(c_0, layer * num_directions, num_directions),
            hidden_size=hidden_size,
            direction="bidirectional" if bidirectional else "forward",
        )
        y = op.Transpose(y, perm=[0, 2, 1, 3])  # (T, D, B, H) -> (T, B, D, H)
        x = op.Reshape(y, _numbers(0, 0, num_directions * hidden_size))
        all_h.append(h_n)
        all_c.append(c_n)
    nothing = op.Constant(value=ir.tensor([], dtype=ir.DataType.FLOAT))  # nobody reads cells and the reserve
    return x, op.Concat(*all_h, axis=0), op.Concat(*all_c, axis=0), nothing, nothing


def _variant(
    x: Any,
    h_0: Any,
    c_0: Any,
    weights: Sequence[Any],
    reverse: bool,
    lengths: Any,
    reset: Any,
    zoneout_h_mask: Any,
    zoneout_c_mask: Any,
    recurrent_mask: Any,
    zoneout_h: float,
    zoneout_c: float,
    cell_clip: float,
    peephole: bool,
    layer_norm: bool,
    training: bool,
) -> tuple[Any, ...]:
    """Of the op for one direction of one layer (lstm_fused/variant_ops.py)."""
    hidden_size = c_0.shape[1]
    _refuse(
        (reset is not None, "`reset`"),
        (h_0.shape[1] != hidden_size, "`proj_size`"),
        (recurrent_mask is not None, "`recurrent_dropout` (call model.eval() before)"),
        (bool(zoneout_h or zoneout_c) or any(m is not None for m in (zoneout_h_mask, zoneout_c_mask)), "`zoneout`"),
        (cell_clip > 0, "`cell_clip`: its own clips what the gates are taken of"),
        (layer_norm, "`layer_norm`"),
    )
    *matrices, peepholes = weights  # it is what is left
    w_ih, w_hh, *biases = [_in_order(w, hidden_size, _GATES) for w in matrices]
    y, h_n, c_n = op.LSTM(
        x,
        op.Unsqueeze(w_ih, _numbers(0)),
        op.Unsqueeze(w_hh, _numbers(0)),
        op.Unsqueeze(op.Concat(*biases, axis=0), _numbers(0)) if biases else None,
        None if lengths is None else op.Cast(lengths, to=INT32),
        op.Unsqueeze(h_0, _numbers(0)),
        op.Unsqueeze(c_0, _numbers(0)),
        op.Unsqueeze(_in_order(op.Reshape(peepholes, _numbers(-1)), hidden_size, _PEEPHOLES), _numbers(0)),
        hidden_size=hidden_size,
        direction="reverse" if reverse else "forward",
    )
    nothing = op.Constant(value=ir.tensor([], dtype=ir.DataType.FLOAT))  # nobody reads cells and the reserve
    y, h_n, c_n = op.Squeeze(y, _numbers(1)), op.Squeeze(h_n, _numbers(0)), op.Squeeze(c_n, _numbers(0))
    return y, nothing, h_n, c_n, nothing


def _reads_cells(program: Any) -> bool:
    """Whether something reads the cells that a variant's operator always has, and ONNX's LSTM never."""
    nodes = [node for node in program.graph.nodes if node.target is torch.ops.lstm_fused.variant.default]
    parts = [part for node in nodes for part in node.users if part.target is operator.getitem]
    return any(part.args[1] == 1 and part.users for part in parts)


# Where ONNX's order i, o, f, g of the gates, and i, o, f of the peepholes, has which of ours.
_GATES, _PEEPHOLES = (0, 3, 1, 2), (0, 2, 1)


def _refuse(*candidates: tuple[bool, str]) -> None:
    for present, what in candidates:
        if present:
            raise NotImplementedError(f"ONNX's LSTM operator has no {what}")


def _in_order(value: Any, size: int, order: Sequence[int]) -> Any:
    """Blocks of ``size`` of the first dimension."""
    return op.Concat(*(_slice(value, n * size, size) for n in order), axis=0)


def _slice(value: Any, begin: int, size: int) -> Any:
    """Along the first dimension."""
    return op.Slice(value, _numbers(begin), _numbers(begin + size), _numbers(0))


def _numbers(*values: int) -> Any:
    return op.Constant(value_ints=values)


def _nodes_of_weights(model: ir.Model) -> set[ir.Node]:
    """What computes the weights and biases of an LSTM."""
    waiting = [
        value for node in model.graph if node.op_type == "LSTM" for value in (*node.inputs[1:4], *node.inputs[7:8])
    ]
    found: set[ir.Node] = set()
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += node.inputs
    return found


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
