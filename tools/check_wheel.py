"""Installs a wheel into a fresh environment and runs it there: python tools/check_wheel.py dist/lstm_fused-*.whl.

The environment has nothing but the wheel; torch is lent to it through a path file, which saves a second download and
leaves this environment's own lstm_fused behind.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

CHECK = """
import sys, torch, lstm_fused
assert lstm_fused.__file__.startswith(sys.prefix), f"imported {lstm_fused.__file__}, not the wheel"
torch.manual_seed(0)
theirs, input = torch.nn.LSTM(5, 7, num_layers=2, bidirectional=True), torch.randn(11, 3, 5)
ours = lstm_fused.LSTM(5, 7, num_layers=2, bidirectional=True)
ours.load_state_dict(theirs.state_dict())
torch.testing.assert_close(ours(input), theirs(input))
ours(input)[0].sum().backward()
print(lstm_fused.explain(ours, input.shape))
"""


def main(wheel: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
        purelib = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.check_output(purelib, text=True).strip())
        (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-c", CHECK], cwd=folder, check=True)
    print(f"{wheel} imports and runs in an environment of its own")


if __name__ == "__main__":
    main(sys.argv[1])
