"""Modules for other packages: `import lstm_fused` needs none of them, and each says what it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDES = {
    "missing": "sys.modules['keras'] = None",
    "other backend": "import types; backend = types.SimpleNamespace(backend=lambda: 'jax'); "
    "sys.modules['keras'] = types.SimpleNamespace(backend=backend)",
}
MESSAGES = {
    "missing": "ImportError: lstm_fused.keras needs Keras 3, which is not installed: pip install keras",
    "other backend": "RuntimeError: lstm_fused.keras needs Keras's torch backend, got 'jax': set the environment "
    "variable KERAS_BACKEND=torch before keras is imported",
}


@pytest.mark.parametrize("case", PRELUDES)
def test_keras(case: str) -> None:
    done = run(f"import sys; {PRELUDES[case]}; import lstm_fused; import lstm_fused.keras")
    assert done.stderr.rstrip().endswith(MESSAGES[case])


def test_none_is_imported() -> None:
    names = ("keras", "torchrl", "tensordict", "sb3_contrib", "stable_baselines3")
    done = run(f"import lstm_fused, sys; assert not [name for name in {names} if name in sys.modules]")
    assert done.returncode == 0, done.stderr


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
