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
    assert split(48, 1024, 4, num_directions=2) == ("rows", 4)
    assert split(47, 1024, 4, num_directions=2) == ("gates", 4)
    assert split(1, 1024, 2, num_directions=2) == ("rows", 2)  # a thread for each direction
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
    def plan_of(l2_bytes: int, **sizes) -> CpuPlan:
        return _plan.plan_cpu(Problem(seq_len=200, **sizes), CpuFacts(2, l2_bytes=l2_bytes))

    for kib, hidden_size in [(256, 90), (512, 128), (1024, 181), (2048, 256)]:
        # two threads read it whole where it fits in half of the cache
        assert plan_of(kib * 1024, batch=4, hidden_size=hidden_size).split == "rows"
        assert plan_of(kib * 1024, batch=4, hidden_size=hidden_size + 1).split == "gates"
        # two rows of a half type repay its packing where it fits in all of it
        assert plan_of(kib * 1024, batch=2, hidden_size=2 * hidden_size + 2, dtype="float16").kernel == "direct"
    assert plan_of(2048 * 1024, batch=2, hidden_size=362, dtype="float16").kernel == "packed"
    assert plan_of(2048 * 1024, batch=2, hidden_size=363, dtype="float16").kernel == "direct"
    assert plan_of(2048 * 1024, batch=3, hidden_size=363, dtype="float16").kernel == "packed"
    assert plan_of(2048 * 1024, batch=2, hidden_size=363).kernel == "packed"


def kernel(seq_len: int, batch: int, hidden_size: int, vector_bytes: int = 64, **sizes) -> str:
    problem = Problem(seq_len=seq_len, batch=batch, hidden_size=hidden_size, **sizes)
    return _plan.plan_cpu(problem, CpuFacts(1, vector_bytes)).kernel


def test_cpu_weights_are_packed_where_rows_repay_it() -> None:
    # a row for 20 bytes of a row of W_hh, 96 at most
    for hidden_size, rows in [(5, 1), (16, 3), (64, 12), (128, 25), (479, 95), (480, 96), (2048, 96)]:
        assert kernel(rows, 1, hidden_size) == "direct" and kernel(rows + 1, 1, hidden_size) == "packed"
    assert kernel(6, 2, 64) == "direct" and kernel(7, 2, 64) == kernel(5, 3, 64) == "packed"
    assert kernel(25, 1, 64, dtype="float64") == "direct" and kernel(12, 1, 64, dtype="bfloat16") == "direct"
    # of float64 twice as many, 192 at most; with narrow vectors twice as many, too
    assert kernel(192, 1, 2048, dtype="float64") == "direct" and kernel(193, 1, 2048, dtype="float64") == "packed"
    assert kernel(24, 1, 64, 32) == "direct" and kernel(25, 1, 64, 32) == kernel(97, 1, 512, 32) == "packed"
    # five for each byte of an element where a core reads two whole vectors a cycle
    for dtype, most in (("float32", 20), ("float64", 40)):
        found = [
            _plan.plan_cpu(Problem(seq_len=rows, hidden_size=2048, dtype=dtype), CpuFacts(1, bytes_, l1_bytes=48 << 10))
            for rows, bytes_ in ((most, 64), (most + 1, 64), (most + 1, 32))
        ]
        assert [plan.kernel for plan in found] == ["direct", "packed", "direct"]
    # h is as wide as its projection
    assert kernel(30, 1, 1024, proj_size=128) == "packed" and kernel(25, 1, 1024, proj_size=128) == "direct"
    assert kernel(1, 0, 16) == kernel(0, 64, 16) == "direct"


def test_cpu_w_ih_is_read_where_it_lies() -> None:
    def direct(rows: int, input_size: int, vector_bytes: int = 32) -> bool:
        problem = Problem(seq_len=rows, input_size=input_size, hidden_size=1024)
        return _plan.plan_cpu(problem, CpuFacts(1, vector_bytes)).direct_w_ih

    assert direct(3, 16) and direct(12, 64) and direct(24, 2048)
    assert not direct(4, 16) and not direct(13, 64) and not direct(25, 2048)
    assert direct(48, 2048, 64) and not direct(49, 2048, 64) and not direct(13, 64, 64)
    assert not direct(1, 15)  # short rows are packed


def test_cpu_one_step() -> None:
    # rows that fill six of seven lanes of their vectors
    for batch, chosen in [(13, "direct"), (14, "one_step"), (16, "one_step"), (17, "direct"), (27, "direct")]:
        assert kernel(1, batch, 200) == chosen
    assert kernel(1, 28, 200) == kernel(1, 64, 200) == kernel(1, 5000, 200) == "one_step"
    assert kernel(1, 8, 200, dtype="float64") == "one_step" and kernel(1, 9, 200, dtype="float64") == "direct"
    # of narrow vectors, one and a half of them
    assert kernel(1, 11, 200, 32) == "direct" and kernel(1, 12, 200, 32) == kernel(1, 17, 200, 32) == "one_step"
    assert kernel(1, 7, 200, 32, dtype="float64") == "direct" and kernel(1, 8, 200, 32, dtype="float64") == "one_step"
    # what no cache holds is read faster so
    assert kernel(1, 10, 1024) == "one_step" and kernel(1, 9, 1024) == "direct"
    # eight rows more than of several steps are read where they lie, and no single step is packed
    assert kernel(1, 20, 60) == "direct" and kernel(1, 21, 60) == "one_step"
    assert kernel(2, 25, 200) == "packed"
    problem = Problem(seq_len=1, batch=64, hidden_size=200)
    whole = _plan.plan(problem, _plan.cpu_device(CpuFacts(2, 32)))
    assert whole.cpu.kernel == "one_step" and "a single step" in str(whole)


def test_cpu_pairs_of_bfloat16() -> None:
    def direct(seq_len: int, batch: int, hidden_size: int, dtype: str = "bfloat16") -> bool:
        problem = Problem(seq_len=seq_len, batch=batch, hidden_size=hidden_size, dtype=dtype)
        found = _plan.plan_cpu(problem, CpuFacts(vector_bytes=64, multiplies_pairs=True))
        if dtype == "bfloat16":  # a single step that is not direct has a kernel of its own
            assert (found.kernel == "one_step") is (seq_len == 1 and found.kernel != "direct")
        return found.kernel == "direct"

    # up to 4 rows and one for every 32 columns of W_hh, 24 at most; two thirds of those in batches of three at most
    assert direct(1, 6, 64) and not direct(1, 7, 64)
    assert direct(2, 6, 256) and not direct(13, 1, 256) and not direct(2, 7, 256)
    # ten at most of a single step, whose other kernel packs nothing
    assert direct(1, 10, 256) and direct(1, 10, 2048) and not direct(1, 11, 2048) and not direct(1, 64, 256)
    assert direct(6, 4, 2048) and not direct(5, 5, 2048)
    assert direct(8, 1, 256) and not direct(9, 1, 256) and not direct(1000, 1, 2048)
    assert direct(1000, 1, 2048, dtype="float16") and direct(1, 20, 64, dtype="float32")
    device = _plan.cpu_device(CpuFacts(2, 64, multiplies_pairs=True))
    whole = _plan.plan(Problem(seq_len=1, batch=64, hidden_size=200, dtype="bfloat16"), device)
    assert whole.cpu.kernel == "one_step" and "pairs of bfloat16" in str(whole)


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
