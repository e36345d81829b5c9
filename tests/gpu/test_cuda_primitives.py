"""csrc/kernels/primitives.cuh on a GPU against its twin on the simulator: the simulator itself is checked here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import simulation
import toolchain
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = Path("tests/gpu/primitives.cu")
NEED_CLUSTERS = {"cluster", "async_store", "arrive"}
# exp2_approximate, reciprocal_approximate and tanh_approximate promise these relative errors, on either side.
APPROXIMATE = 2.0**-22, 2.0**-22, 2.0**-11
# The order and the width in which tensor cores add are not documented. There are at most 17 terms of at most 1, and
# sums hardly reach 8: float sums in any order, truncated, are closer than this; a wrong element or rounding is not.
MMA = 17 * 2.0**-20


def results(program: Path, *arguments: str) -> dict[str, np.ndarray]:
    """What the program printed: words by name."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: np.array([int(word, 16) for word in words], dtype=np.uint32) for name, *words in lines}


def compile_for_gpu(architecture: str) -> Path:
    cuda = toolchain.find_cuda()
    if cuda is None:
        pytest.skip("no CUDA toolkit was found")
    program = ROOT / "build" / f"gpu-primitives-{architecture}"
    program.parent.mkdir(exist_ok=True)
    flags = ["-O3", "-std=c++17", "-Icsrc", f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    sources = [SOURCE, "csrc/kernels/start.cu"]
    subprocess.run([cuda.nvcc, *flags, *sources, "-o", program], cwd=ROOT, check=True)
    return program


@pytest.fixture(scope="module")
def simulated() -> dict[str, np.ndarray]:
    return results(simulation.build("primitives", [SOURCE]))


@pytest.fixture(scope="module")
def on_gpu() -> dict[str, np.ndarray]:
    capability = "".join(map(str, torch.cuda.get_device_capability()))
    known = {architecture.rstrip("a"): architecture for architecture in toolchain.ARCHITECTURES}
    return results(compile_for_gpu(known.get(capability, capability)))


def test_schedules_do_not_matter(simulated: dict[str, np.ndarray]):
    """The programs have no races, so that differences on a GPU are those of the primitives."""
    program = simulation.build("primitives", [SOURCE])
    for seed in range(1, 6):
        again = results(program, str(seed))
        assert again.keys() == simulated.keys()
        for name, words in simulated.items():
            assert (again[name] == words).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_the_gpus_program_compiles(architecture: str):
    compile_for_gpu(architecture)


@pytest.mark.gpu
def test_every_primitive_ran(simulated: dict[str, np.ndarray], on_gpu: dict[str, np.ndarray]):
    has_clusters = torch.cuda.get_device_capability() >= (9, 0)
    assert on_gpu.keys() == simulated.keys() - (set() if has_clusters else NEED_CLUSTERS)


EXACT = (
    "where round round_two warp shared large_shared copy named_barrier named_arrive wanted exchange cluster"
    " async_store arrive"
).split()


@pytest.mark.gpu
@pytest.mark.parametrize("name", EXACT)
def test_same_words(name: str, simulated: dict[str, np.ndarray], on_gpu: dict[str, np.ndarray]):
    if name not in on_gpu:
        assert name in NEED_CLUSTERS and torch.cuda.get_device_capability() < (9, 0)
        pytest.skip("clusters need compute capability 9.0")
    theirs, ours = on_gpu[name], simulated[name]
    if name == "round":  # a NaN in is a NaN out, whatever its payload
        theirs, ours = without_nan_payload(theirs), without_nan_payload(ours)
    different = np.nonzero(theirs != ours)[0]
    assert not len(different), (
        f"{len(different)} differ, first {different[0]}: {theirs[different[0]]:x}, {ours[different[0]]:x}"
    )


def without_nan_payload(words: np.ndarray) -> np.ndarray:
    """Of triples float16, bfloat16, TF32: NaNs become one number each."""
    triples = words.reshape(-1, 3).copy()
    for column, infinity, sign in ((0, 0x7C00, 0x8000), (1, 0x7F80, 0x8000), (2, 0x7F800000, 0x80000000)):
        values = triples[:, column]
        values[(values & np.uint32(sign - 1)) > infinity] = infinity + 1
    return triples.ravel()


def floats(words: np.ndarray) -> np.ndarray:
    return words.view(np.float32).astype(np.float64)


@pytest.mark.gpu
def test_widening(simulated: dict[str, np.ndarray], on_gpu: dict[str, np.ndarray]):
    np.testing.assert_array_equal(floats(on_gpu["widen"]), floats(simulated["widen"]))


@pytest.mark.gpu
def test_approximations(simulated: dict[str, np.ndarray], on_gpu: dict[str, np.ndarray]):
    ours, theirs = (floats(words["approximate"]).reshape(-1, 3) for words in (on_gpu, simulated))
    for column, error in enumerate(APPROXIMATE):  # each to another side
        np.testing.assert_allclose(ours[:, column], theirs[:, column], rtol=2.01 * error)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mma_float16", "mma_bfloat16", "mma_tf32"])
def test_products(name: str, simulated: dict[str, np.ndarray], on_gpu: dict[str, np.ndarray]):
    np.testing.assert_allclose(floats(on_gpu[name]), floats(simulated[name]), rtol=0, atol=MMA)
