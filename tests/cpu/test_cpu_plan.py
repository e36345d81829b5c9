"""How the planner shares a layer between threads, and which CPU kernels it takes."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from lstm_fused import _plan
from lstm_fused._plan import CpuFacts, CpuPlan, Problem

DTYPES = ["float16", "bfloat16", "float32", "float64"]


def split(batch: int, hidden_size: int, threads: int, **sizes) -> tuple[str, int]:
    sizes = {"seq_len": 100} | sizes
    found: CpuPlan = _plan.plan_cpu(Problem(batch=batch, hidden_size=hidden_size, **sizes), CpuFacts(threads))
    return found.split, found.num_tasks


def test_cpu_split_rule() -> None:
    # W_hh of H = 181 in float32 fits in half of an L2 of 1 MiB, one of H = 182 does not
    assert split(4, 181, 2) == ("rows", 2)
    assert split(4, 182, 2) == ("gates", 2)
    assert split(4, 181, 2, dtype="float64") == ("gates", 2)
    assert split(4, 182, 2, dtype="bfloat16") == ("gates", 2)  # computed in float32
    assert split(4, 257, 2, proj_size=100) == ("rows", 2)
    # 24 rows per thread hide the reading; directions share the threads
    assert split(47, 1024, 2) == ("gates", 2)
    assert split(48, 1024, 2) == ("rows", 2)
    assert split(24, 1024, 2, num_directions=2) == ("rows", 2)
    assert split(23, 1024, 2, num_directions=2) == ("gates", 2)
    # fewer rows than threads: gates once a step is worth about 100,000 flop (8 * H * H at B = 1: H = 112)
    assert split(1, 111, 4) == ("rows", 1)
    assert split(1, 112, 4) == ("gates", 4)
    assert split(4, 112, 4) == ("rows", 4)
    # one thread never waits for itself
    assert split(1, 1024, 1) == ("rows", 1)
    # no more tasks than rows, units or work
    assert split(0, 1024, 8) == ("rows", 1)
    assert split(1, 112, 64) == ("gates", 14)
    assert split(1, 112, 64, num_directions=2) == ("gates", 28)
    assert split(8, 16, 8, seq_len=1) == ("rows", 1)


def test_a_larger_cache_holds_more_of_w_hh() -> None:
    def plan_of(l2_bytes: int, **sizes: int) -> CpuPlan:
        return _plan.plan_cpu(Problem(seq_len=100, **sizes), CpuFacts(2, l2_bytes=l2_bytes))

    for kib, hidden_size in [(256, 90), (512, 128), (1024, 181), (2048, 256)]:
        # two threads read it whole where it fits in half of the cache
        assert plan_of(kib * 1024, batch=4, hidden_size=hidden_size).split == "rows"
        assert plan_of(kib * 1024, batch=4, hidden_size=hidden_size + 1).split == "gates"
        # one row of the batch repays its packing where it fits in all of it
        assert plan_of(kib * 1024, batch=1, hidden_size=2 * hidden_size + 2).direct_w_hh
    assert not plan_of(2048 * 1024, batch=1, hidden_size=362).direct_w_hh
    assert plan_of(2048 * 1024, batch=1, hidden_size=363).direct_w_hh


def direct(seq_len: int, batch: int, hidden_size: int, input_size: int = 16, **sizes) -> tuple[bool, bool]:
    problem = Problem(seq_len=seq_len, batch=batch, hidden_size=hidden_size, input_size=input_size, **sizes)
    found = _plan.plan_cpu(problem, CpuFacts())
    return found.direct_w_hh, found.direct_w_ih


def test_cpu_one_step() -> None:
    def one_step(seq_len: int, batch: int) -> bool:
        return _plan.plan_cpu(
            Problem(seq_len=seq_len, batch=batch, hidden_size=200, input_size=9), CpuFacts(2)
        ).one_step

    assert one_step(1, 25) and one_step(1, 5000)
    assert not one_step(1, 24) and not one_step(2, 25) and not one_step(0, 64)
    whole = _plan.plan(Problem(seq_len=1, batch=64, hidden_size=200), _plan.cpu_device(CpuFacts(2, 32)))
    assert whole.cpu.one_step and "a single step" in str(whole)


def test_cpu_weights_are_packed_where_rows_repay_it() -> None:
    # short rows of W_hh: up to 24 rows T x B, as for W_ih; up to 16 in batches of three at most
    assert direct(1, 24, 127) == direct(6, 4, 127) == direct(16, 1, 127) == direct(5, 3, 127) == (True, True)
    assert direct(17, 1, 127) == direct(6, 3, 127) == (False, True)
    assert direct(25, 1, 127) == direct(1, 25, 127) == (False, False)
    # long ones: up to 48, or 32
    assert direct(6, 4, 128) == direct(1, 1, 1024) == (True, True)
    assert direct(1, 25, 128) == (False, False)  # a kernel of its own
    assert direct(5, 5, 128) == direct(12, 4, 128) == direct(32, 1, 128) == direct(16, 2, 128) == (True, False)
    assert direct(7, 7, 128) == direct(33, 1, 128) == direct(17, 2, 128) == direct(1000, 1, 256) == (False, False)
    # or a single row of the batch, if W_hh fills more than a cache or is of a half type
    assert direct(1000, 1, 257) == direct(1000, 1, 128, dtype="bfloat16") == (True, False)
    assert direct(1000, 1, 182, dtype="float64") == (True, False)
    assert direct(1000, 1, 181, dtype="float64") == direct(1000, 1, 127, dtype="float16") == (False, False)
    assert direct(1000, 2, 1024) == (False, False)
    # h is as wide as its projection
    assert direct(100, 1, 1024, proj_size=127) == (False, False)
    assert direct(100, 1, 1024, proj_size=128) == (True, False)
    assert direct(1, 0, 16) == (True, True)
    # short rows of W_ih are torch's
    assert direct(1, 1, 64, input_size=15) == (True, False)


def test_cpu_pairs_of_bfloat16() -> None:
    def direct(seq_len: int, batch: int, hidden_size: int, dtype: str = "bfloat16") -> bool:
        problem = Problem(seq_len=seq_len, batch=batch, hidden_size=hidden_size, dtype=dtype)
        found = _plan.plan_cpu(problem, CpuFacts(multiplies_pairs=True))
        if dtype == "bfloat16":  # a single step that is not direct has a kernel of its own
            assert found.one_step is (seq_len == 1 and not found.direct_w_hh)
        return found.direct_w_hh

    # up to 4 rows and one for every 32 columns of W_hh, 24 at most; two thirds of those in batches of three at most
    assert direct(1, 6, 64) and not direct(1, 7, 64)
    assert direct(1, 12, 256) and not direct(1, 13, 256) and not direct(1, 64, 256)
    assert direct(6, 4, 2048) and not direct(5, 5, 2048)
    assert direct(8, 1, 256) and not direct(9, 1, 256) and not direct(1000, 1, 2048)
    assert direct(1000, 1, 2048, dtype="float16") and direct(1, 24, 64, dtype="float32")
    device = _plan.cpu_device(CpuFacts(2, 64, multiplies_pairs=True))
    whole = _plan.plan(Problem(seq_len=1, batch=64, hidden_size=200, dtype="bfloat16"), device)
    assert whole.cpu.one_step and "pairs of bfloat16" in str(whole)


@hypothesis.given(
    batch=st.integers(0, 300),
    hidden_size=st.integers(1, 3000),
    threads=st.integers(1, 256),
    num_directions=st.integers(1, 2),
    dtype=st.sampled_from(DTYPES),
)
def test_cpu_tasks_are_never_empty(threads: int, **sizes) -> None:
    problem = Problem(seq_len=16, **sizes)
    found = _plan.plan_cpu(problem, CpuFacts(threads))
    if found.split == "gates":
        assert 1 < threads >= found.num_tasks >= 1
        assert (found.num_tasks - 1) * 8 < sizes["num_directions"] * (sizes["hidden_size"] + 7)
    else:
        assert found.num_tasks % sizes["num_directions"] == 0
        assert found.num_tasks <= max(sizes["num_directions"], threads)
        assert found.num_tasks <= sizes["num_directions"] * max(1, sizes["batch"])
    whole = _plan.plan(problem, _plan.cpu_device(CpuFacts(threads, 32)))
    assert (whole.kernel, whole.cpu.split, whole.cpu.num_tasks) == ("cpu", found.split, found.num_tasks)
    assert whole.chosen.us_per_step >= 0
    assert found.split in str(whole)
