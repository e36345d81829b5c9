"""A drop-in replacement for torch.nn.LSTM whose forward and backward run in fused kernels of its own."""

from . import flops, functional, reference  # noqa: F401 (flops registers itself)
from .convert import convert, revert
from .explain import explain
from .in_place import in_place_of_torch
from .modules import LSTM, LSTMCell
from .stream import Stream

__version__ = "0.2.0"

__all__ = ["LSTM", "LSTMCell", "Stream", "convert", "explain", "functional", "in_place_of_torch", "reference", "revert"]
