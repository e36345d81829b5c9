"""What `python -m bench.stream` compares: the ways to run an LSTM on a CPU step by step, each with a state of its own.

Every side holds the same weights and gets the same chunk x (T, B, H) again and again; its state goes on from call to
call. What a side does once (packing, quantizing, building a graph) is no part of its calls.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lstm_fused
from bench import environment, peer_onnxruntime
from bench.cases import Case
from lstm_fused.stream_weights import MULTIPLIES_BYTES

# A call takes x and returns the output (T, B, H), as whatever the side makes of it: asarray() reads all of them.
Call = Callable[[], object]


@dataclass(frozen=True)
class Side:
    """One way to run it. `ours` names the streams that it is compared with, the likest first; none for our own."""

    build: Callable[[nn.LSTM, Tensor], Call]
    tolerance: float  # largest difference of the first output from float64's, as a part of the largest element
    ours: tuple[str, ...] = ()
    runs: Callable[[Case], bool] = lambda case: True


def stream_of(weights: torch.dtype | None, activations: torch.dtype | None = None) -> Callable[[nn.LSTM, Tensor], Call]:
    def build(lstm: nn.LSTM, x: Tensor) -> Call:
        stream = lstm_fused.Stream(lstm, x.size(1), weights, activations=activations)
        given = x[0] if len(x) == 1 else x
        return lambda: stream(given)

    return build


def called(module: nn.Module, x: Tensor) -> Call:
    """A module that takes and returns its state."""
    state = None

    def call() -> object:
        nonlocal state
        output, state = module(x, state)
        return output

    return call


def module(lstm: nn.LSTM, x: Tensor) -> Call:
    ours = lstm_fused.LSTM(lstm.input_size, lstm.hidden_size).eval()
    ours.load_state_dict(lstm.state_dict())
    return called(ours, x)


def cell(lstm: nn.LSTM, x: Tensor) -> Call:
    own = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    own.load_state_dict({name.removesuffix("_l0"): weight for name, weight in lstm.state_dict().items()})
    step, state = x[0], None

    def call() -> object:
        nonlocal state
        state = own(step, state)
        return state[0]

    return call


def torch_int8(lstm: nn.LSTM, x: Tensor) -> Call:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what people use
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(lstm), {nn.LSTM}, torch.qint8)[0]
    return called(quantized, x)


def onnxruntime_of(int8: bool) -> Callable[[nn.LSTM, Tensor], Call]:
    def build(lstm: nn.LSTM, x: Tensor) -> Call:
        import onnxruntime

        model = _graph_with_state(lstm, x)
        if int8:
            model = _quantized(model)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), peer_onnxruntime.session_options(), providers=["CPUExecutionProvider"]
        )
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        state = [1, x.size(1), lstm.hidden_size]
        states = [[value(np.zeros(state, np.float32)) for _ in range(2)] for _ in range(2)]
        output = value(np.zeros([len(x), *state], np.float32))
        bindings = []
        for n in range(2):  # one reads the state that the other one wrote
            binding = session.io_binding()
            binding.bind_ortvalue_input("input", value(x.numpy()))
            for name, before, after in zip(("h", "c"), states[n], states[1 - n]):
                binding.bind_ortvalue_input(f"{name}_0", before)
                binding.bind_ortvalue_output(f"{name}_n", after)
            binding.bind_ortvalue_output("output", output)
            bindings.append(binding)

        def call() -> object:
            bindings.reverse()
            session.run_with_iobinding(bindings[1])
            return output

        return call

    return build


def _graph_with_state(lstm: nn.LSTM, x: Tensor):
    """One LSTM operator, whose state comes in and goes out."""
    import onnx

    helper, size, float32 = onnx.helper, lstm.hidden_size, onnx.TensorProto.FLOAT
    order = list(peer_onnxruntime.GATE_ORDER)
    weights = {name: w.detach().numpy().reshape(4, size, -1)[order] for name, w in lstm.named_parameters()}
    biases = [weights[name].reshape(1, 4 * size) for name in ("bias_ih_l0", "bias_hh_l0")]
    constants = {name: weights[f"weight_{name}_l0"].reshape(1, 4 * size, -1) for name in ("ih", "hh")}
    constants["bias"] = np.concatenate(biases, axis=1)
    state = [1, x.size(1), size]
    names = ["input", "ih", "hh", "bias", "", "h_0", "c_0"]
    node = helper.make_node("LSTM", names, ["output", "h_n", "c_n"], hidden_size=size, name="lstm")
    shapes = {"input": list(x.shape), "h_0": state, "c_0": state}
    results = {"output": [len(x), *state], "h_n": state, "c_n": state}
    graph = helper.make_graph(
        [node],
        "stream",
        [helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, float32, shape) for name, shape in results.items()],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", peer_onnxruntime.OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=peer_onnxruntime.IR_VERSION)


def _quantized(model):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        # Without VNNI it adds two products of bytes up in 16 bits, which holds weights of 7 bits.
        quantize_dynamic(
            before,
            after,
            per_channel=True,
            reduce_range="vnni" not in environment.cpu_facts().get("flags", ""),
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["LSTM"],
        )
        quantized = onnx.load(after)
    assert [node.op_type for node in quantized.graph.node] == ["DynamicQuantizeLSTM"]
    return quantized


def asarray(output: object) -> np.ndarray:
    return np.array(output.numpy())  # a torch.Tensor, or an OrtValue


BYTES = "int8 x int8"
HAS_ONNXRUNTIME = peer_onnxruntime.version() is not None
SIDES = {
    "float32": Side(stream_of(None), 1e-5),
    "bfloat16": Side(stream_of(torch.bfloat16), 1e-2),
    "int8": Side(stream_of(torch.int8), 1e-1),
    BYTES: Side(stream_of(torch.int8, torch.int8), 1e-1, runs=lambda case: bool(MULTIPLIES_BYTES)),
    "module": Side(module, 1e-5, ("float32",)),
    "torch": Side(called, 1e-5, ("float32",)),
    "LSTMCell": Side(cell, 1e-5, ("float32",), lambda case: case.seq_len == 1),
    "ORT": Side(onnxruntime_of(int8=False), 1e-5, ("float32",), lambda case: HAS_ONNXRUNTIME),
    "torch int8": Side(torch_int8, 1e-1, (BYTES, "int8")),
    "ORT int8": Side(onnxruntime_of(int8=True), 2e-1, (BYTES, "int8"), lambda case: HAS_ONNXRUNTIME),
}
