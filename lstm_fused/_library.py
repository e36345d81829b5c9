"""Loads the op library, which holds no Python: importing this module makes ``torch.ops.lstm_fused`` available."""

from pathlib import Path

import torch

PATH = Path(__file__).with_name("liblstm_fused.so")

if not PATH.exists():
    raise ImportError(
        f"lstm_fused is not built: {PATH.name} is missing beside {Path(__file__).name}. "
        "Build it with `pip install --no-build-isolation .`, or `make` in a clone."
    )
torch.ops.load_library(str(PATH))

# Holds what is registered from Python, for as long as the program runs.
IMPLEMENTATIONS = torch.library.Library("lstm_fused", "IMPL")
