"""The second peer on the CPU: the same weights as an ONNX graph, run by ONNX Runtime. Inference in float32 only.

What its time holds: one call of the session, the output written into memory allocated before, as ONNX Runtime's I/O
binding has it: nothing is copied or converted on the way in or out. What it does not hold: the weights are constants of
the graph, which ONNX Runtime packs once, when the session is made; the other two get theirs anew in every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.cases import Case
from bench.pair import Side

try:
    import onnx
    import onnxruntime
except ImportError:
    onnxruntime = None

OPSET, IR_VERSION = 17, 8  # of 2022: an LSTM needs no newer one
GATE_ORDER = (0, 3, 1, 2)  # ONNX has i, o, f, c where torch has i, f, g (ONNX's c), o


def version() -> str | None:
    """None where ONNX Runtime or onnx is not installed."""
    return onnxruntime.__version__ if onnxruntime else None


def runs(case: Case, device: torch.device) -> bool:
    if onnxruntime is None or device.type != "cpu" or case.group == "cell":
        return False
    return (case.mode, case.dtype) == ("inference", "float32")


@dataclass
class OnnxRuntimeSide:
    """Like bench.pair.Side, for inference."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding

    def infer(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def tensors(self, mode: str) -> dict[str, Tensor]:
        """Runs once and returns output (T, B, D*H), h_n and c_n (L*D, B, H), by name."""
        assert mode == "inference"
        self.infer()
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, map(torch.from_numpy, self.binding.copy_outputs_to_cpu()), strict=True))


def session_options() -> onnxruntime.SessionOptions:
    """On as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its threads wait for work by spinning. They may do so within a call, not on the others' time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def build(case: Case, side: Side) -> OnnxRuntimeSide:
    """The same weights and input as `side`'s."""
    weights = {name: parameter.detach().numpy() for name, parameter in side.parameters}
    model = graph(case, weights).SerializeToString()
    session = onnxruntime.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])

    binding = session.io_binding()
    binding.bind_ortvalue_input("input", onnxruntime.OrtValue.ortvalue_from_numpy(side.input.detach().numpy()))
    if case.lengths:
        lengths = np.array(case.lengths, dtype=np.int32)
        binding.bind_ortvalue_input("lengths", onnxruntime.OrtValue.ortvalue_from_numpy(lengths))
    for output in session.get_outputs():
        memory = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32)
        binding.bind_ortvalue_output(output.name, memory)
    return OnnxRuntimeSide(session, binding)


def graph(case: Case, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """One standard LSTM operator for each layer, both directions in one. Weights by their names in torch.nn.LSTM."""
    helper, directions, size = onnx.helper, case.num_directions, case.hidden_size
    float32, int32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    constants: dict[str, np.ndarray] = {}
    nodes = []

    def of_layer(kind: str, layer: int) -> np.ndarray:
        """(D, 4H, ...), gates in ONNX's order."""
        suffixes = ("", "_reverse")[:directions]
        parts = [weights[f"{kind}_l{layer}{suffix}"].reshape(4, size, -1)[list(GATE_ORDER)] for suffix in suffixes]
        return np.stack(parts).reshape(directions, 4 * size, -1)

    output = "input"
    for layer in range(case.num_layers):
        constants[f"w_{layer}"], constants[f"r_{layer}"] = of_layer("weight_ih", layer), of_layer("weight_hh", layer)
        biases = [of_layer(kind, layer)[..., 0] for kind in ("bias_ih", "bias_hh")]
        constants[f"b_{layer}"] = np.concatenate(biases, axis=1)
        inputs = [output, f"w_{layer}", f"r_{layer}", f"b_{layer}", "lengths" if case.lengths else ""]
        outputs = [f"y_{layer}", f"h_{layer}", f"c_{layer}"]  # (T, D, B, H), (D, B, H) twice
        direction = "bidirectional" if directions == 2 else "forward"
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=size, direction=direction))
        output = "output" if layer + 1 == case.num_layers else f"x_{layer + 1}"  # (T, B, D*H)
        if directions == 1:
            constants["one"] = np.array([1])
            nodes.append(helper.make_node("Squeeze", [f"y_{layer}", "one"], [output]))
        else:
            constants["rows"] = np.array([0, 0, -1])
            nodes.append(helper.make_node("Transpose", [f"y_{layer}"], [f"y_{layer}_rows"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"y_{layer}_rows", "rows"], [output]))
    for name in ("h", "c"):
        parts = [f"{name}_{layer}" for layer in range(case.num_layers)]
        nodes.append(helper.make_node("Concat", parts, [f"{name}_n"], axis=0))

    state = [case.num_layers * directions, case.batch, size]
    shapes = {"output": [case.seq_len, case.batch, directions * size], "h_n": state, "c_n": state}
    inputs = [helper.make_tensor_value_info("input", float32, [case.seq_len, case.batch, size])]
    if case.lengths:
        inputs.append(helper.make_tensor_value_info("lengths", int32, [case.batch]))
    outputs = [helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items()]
    initializers = [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()]
    built = helper.make_graph(nodes, "lstm", inputs, outputs, initializers)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
