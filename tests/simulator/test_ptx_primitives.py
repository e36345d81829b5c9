"""What nvcc makes of the primitives, executed: tests/gpu/primitives.cu as PTX gives the words of its C++ twin."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import ptx
import pytest
import simulation
from places import ROOT

pytestmark = pytest.mark.skipif(ptx.CUDA is None, reason="no CUDA toolkit found: nothing to compile PTX with")

SOURCE = ROOT / "tests/gpu/primitives.cu"
NEED_CLUSTERS = ["cluster", "async_store", "arrive"]


@pytest.fixture(scope="module")
def program() -> Path:
    return simulation.build("primitives", [SOURCE])


def run(program: Path, *arguments: object) -> tuple[dict[str, np.ndarray], str]:
    """Words by name, and what has ended the program."""
    command = [str(word) for word in (program, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: np.array([int(word, 16) for word in words], np.uint32) for name, *words in lines}, done.stderr


@pytest.fixture(scope="module")
def twin(program: Path) -> dict[str, np.ndarray]:
    words, error = run(program)
    assert not error
    return words


def same_bits(name: str, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """But for a NaN's: widening one, a GPU makes it a quiet one, and the twin leaves it as it is."""
    if name == "widen":
        a, b = ours.view(np.float32), theirs.view(np.float32)
        return np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(ours[~np.isnan(a)], theirs[~np.isnan(b)])
    return np.array_equal(ours, theirs)


@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_compiled_primitives_are_those_of_the_twin(
    program: Path, twin: dict[str, np.ndarray], architecture: str
) -> None:
    folder = ptx.build(architecture, [SOURCE])
    for seed in range(3):
        words, error = run(program, seed, folder)
        without = NEED_CLUSTERS if architecture == "80" else []
        assert words.keys() == twin.keys() - set(without)
        assert ("trap" in error) == bool(without), error  # what an older GPU cannot do ends a launch there
        for name, ours in words.items():
            assert same_bits(name, ours, twin[name]), name
