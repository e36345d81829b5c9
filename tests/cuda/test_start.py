"""How kernels are started, on a CUDA runtime that is made up: what is asked of it, and what is refused before."""

from __future__ import annotations

import subprocess

import pytest
import toolchain
from places import ROOT

NO_ROOM = 720  # kTooManyBlocks of csrc/kernels/launch.h


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    cuda = toolchain.find_cuda()
    if cuda is None:
        pytest.skip("no CUDA toolkit found: its headers are needed")
    program = tmp_path_factory.mktemp("start") / "start"
    sources = [ROOT / "tests/fake_runtime.cpp", "-x", "c++", ROOT / "csrc/kernels/start.cu"]
    flags = ["-std=c++17", "-pthread", f"-I{ROOT / 'csrc'}", "-isystem", cuda.root / "include"]
    subprocess.run([*toolchain.find_compiler(), *flags, *sources, "-o", program], check=True)
    found: dict[str, list[list[int]]] = {}
    for line in subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines():
        name, *numbers = line.split()
        found.setdefault(name, []).append([int(number) for number in numbers])
    return found


# Attributes set, occupancies asked, launches, launches that the runtime refused, errors left for others to find.
def test_shared_memory_is_allowed_once_and_never_taken_back(counts: dict[str, list[list[int]]]) -> None:
    """Four host threads with different needs: set per launch, one takes back what another is about to use."""
    assert counts["threads"] == [[2, 0, 4000, 0, 0]]


def test_occupancy_is_asked_once_for_a_function_a_device_and_a_shape(counts: dict[str, list[list[int]]]) -> None:
    assert counts["clusters"] == [[2, 1, 3, 0, 0]]
    assert counts["other_shapes"] == [[0, 2, 2, 0, 0]]
    assert counts["other_device"] == [[2, 1, 1, 0, 0]]


def test_too_little_room_is_known_before_a_launch(counts: dict[str, list[list[int]]]) -> None:
    """While a stream is captured, a launch would not tell: the graph could not be instantiated later."""
    assert counts["no_room_for_a_cluster"] == [[NO_ROOM], [NO_ROOM]]
    assert counts["no_room"] == [[2, 2, 0, 0, 0]]
    assert counts["together"] == [[0, 0]]
    assert counts["room"] == [[2, 2, 2, 0, 0]]
    assert counts["too_many"] == [[NO_ROOM, NO_ROOM], [0, 0, 0, 0, 0]]
