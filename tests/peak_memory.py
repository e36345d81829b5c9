"""Peaks of memory, in MiB: python tests/peak_memory.py < JSON list of [module, mode, options] > JSON list.

Each is measured in a process of its own, forked before anything ran: what a call adds to the memory that its process
holds at most. T = 400, B = 32, I = H = 128, one thread.
"""

from __future__ import annotations

import json
import os
import sys

import torch

import lstm_fused

MODULES = {"lstm_fused": lstm_fused.LSTM, "torch": torch.nn.LSTM}


def status(name: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def peak(module: str, mode: str, options: dict) -> float:
    torch.set_num_threads(1)
    dtype = getattr(torch, options.get("dtype", "float32"))
    lstm = MODULES[module](128, 128, **options | {"dtype": dtype})
    width = 128 * (2 if lstm.bidirectional else 1)

    def run(seq_len: int) -> float:
        input = torch.randn(seq_len, 32, 128, dtype=dtype).requires_grad_(mode == "training")
        grad = torch.ones(seq_len, 32, width, dtype=dtype)
        before = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak from here on
        with torch.set_grad_enabled(mode == "training"):
            output = lstm(input)[0]
            if mode == "training":
                output.backward(grad)
        return status("VmHWM") - before

    run(4)
    return run(400)


def in_a_process(*arguments) -> float:
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, json.dumps(peak(*arguments)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = json.loads(pipe.read())
    os.wait()
    return result


if __name__ == "__main__":
    json.dump([in_a_process(*arguments) for arguments in json.load(sys.stdin)], sys.stdout)
