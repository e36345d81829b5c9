"""Set-up shared by all tests: fixed seeds, a fixed number of threads, and the `gpu` marker."""

from __future__ import annotations

import gc
import importlib.util
import os
import re

# OpenMP reads it when torch is imported, here and in the processes that tests start: threads that wait for one another
# sleep. By default they keep a core busy meanwhile, which another process of tests would use.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ptx
import pytest
import torch
from simulated import MACHINES, Simulator

from lstm_fused.explain import built_kernels

# pytest-xdist runs one worker per core: a worker with more threads than its share would only slow the others down.
# Tests about threads set their own number and put this one back.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2

if importlib.util.find_spec("hypothesis"):  # what runs on a GPU does without
    import hypothesis

    hypothesis.settings.register_profile(
        "lstm_fused",
        deadline=None,  # the first call of an op or a dtype warms caches, and machines for CI are noisy
        derandomize=True,  # the same examples on every machine and every run: a failure is always reproducible
        print_blob=True,
        # explaining reruns a failure for minutes
        phases=[p for p in hypothesis.Phase if p is not hypothesis.Phase.explain],
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("lstm_fused")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(THREADS)
    # torch.testing._internal, once imported, would forbid all tests to set torch's flags (TF32 and others).
    torch.backends.disable_global_flags = lambda: None


def why_no_gpu_tests() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device on this machine"
    if not built_kernels():
        return "this build of lstm_fused has no CUDA kernels"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = why_no_gpu_tests()
    if reason is not None:
        for item in items:
            if item.get_closest_marker("gpu"):  # keywords hold folder names too
                item.add_marker(pytest.mark.skip(reason=reason))
    params = {item: item.callspec.params for item in items if hasattr(item, "callspec")}
    never = [item for item, of in params.items() if of.get("simulator") == "sm_80" and needs_clusters(of)]
    items[:] = [item for item in items if item not in never]
    config.hook.pytest_deselected(items=never)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and all of torch stay to the end: the garbage collector need not look at them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """For tests that the CPU can pass too: where there is no GPU, that is how they are tested themselves."""
    return request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--machine", choices=MACHINES, help="what alone executes simulated kernels, of the choices")


# Of the tests of simulated kernels those that run as PTX for the oldest GPUs, too, where no machine is asked for: they
# go through all of the code, and in most of it the instructions are the same.
FOR_OLDEST = re.compile(r"test_(options|large_sizes|accuracy|weights|no_barrier|nothing_of|every_schedule|at_once)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Simulated kernels run as C++; as PTX in slow tests and in those marked `compiled`, or where it is asked for."""
    if "simulator" not in metafunc.fixturenames:
        return
    asked = metafunc.config.getoption("machine")
    no_compiler = pytest.mark.skipif(ptx.CUDA is None, reason="no CUDA toolkit found: nothing to compile PTX with")
    fast = ["twin", "sm_90a"] if metafunc.definition.get_closest_marker("compiled") else ["twin"]
    machines = []
    for machine in [asked] if asked else MACHINES:
        if not asked and machine == "sm_80" and not FOR_OLDEST.match(metafunc.function.__name__):
            continue
        marks = [no_compiler] if machine != "twin" else []
        if not asked and machine not in fast:
            marks.append(pytest.mark.slow)
        machines.append(pytest.param(machine, marks=marks))
    metafunc.parametrize("simulator", machines, indirect=True, scope="session")


def needs_clusters(params: dict[str, object]) -> bool:
    """Of a test of simulated kernels: whether those are of the kind `cluster`."""
    kinds = [value[0] if isinstance(value, tuple) and value else value for value in params.values()]
    return any(isinstance(kind, str) and kind.startswith("cluster") for kind in kinds)


@pytest.fixture(scope="session")
def simulator(request: pytest.FixtureRequest) -> Simulator:
    return Simulator(request.param)


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test."""
    yield torch.set_num_threads
    torch.set_num_threads(THREADS)
