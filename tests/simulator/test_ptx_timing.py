"""The time that launches take by the table of tests/sim/ptx/costs.cpp: small kernels whose time can be told by hand.

Each runs twice, the second time with more of something in it: what comes before and after costs the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_ptx import call, program, write

__all__ = ["program"]

FLOAT, PRODUCT, PRODUCT_RATE, SHARED, L2 = 4, 33, 6, 30, 270
BARRIER, PHASE, REMOTE = 20, 20, 180


def cycles(program: Path, folder: Path, body: str, *, blocks: int = 1, threads: int = 32, cluster: int = 1) -> int:
    """The same for several seeds."""
    said = call(program, "time", write(folder, body), blocks, threads, 8192, cluster, 1024, 4).decode().splitlines()
    assert not any(text.startswith("fault") for text in said), said
    assert len(said) == 4 and len(set(said)) == 1, said
    total, *parts = map(int, said[0].split())
    assert total == sum(parts) and min(parts) >= 0
    return total


def more(program: Path, folder: Path, body: str, few: int, many: int, **launch: int) -> int:
    """How many cycles longer the kernel takes where what stands between braces is there many times rather than few."""
    before, repeated, after = body.split("@@")
    few_cycles, many_cycles = (cycles(program, folder, before + repeated * n + after, **launch) for n in (few, many))
    return many_cycles - few_cycles


ONES = "".join(f"mov.f32 %f{n}, 0f3F800000;\n" for n in range(8)) + "mov.u32 %r2, 0;\nmov.u32 %r3, 0;\n"
CHAINED = "fma.rn.f32 %f1, %f1, %f2, %f3;\n"
APART = "fma.rn.f32 %f1, %f2, %f3, %f4;\n"
USED = "st.global.f32 [%rd2], %f1;\n"


def test_arithmetic(program: Path, tmp_path: Path) -> None:
    """A chain waits for each result; others take a slot each, of their scheduler, which serves each fourth warp."""
    assert more(program, tmp_path, f"{ONES}@@{CHAINED}@@{USED}", 10, 110) == 100 * FLOAT
    assert more(program, tmp_path, f"{ONES}@@{APART}@@{USED}", 10, 110) == 100
    assert more(program, tmp_path, f"{ONES}@@{APART}@@{USED}", 10, 110, threads=4 * 32) == 100
    assert more(program, tmp_path, f"{ONES}@@{APART}@@{USED}", 10, 110, threads=8 * 32) == 200
    assert more(program, tmp_path, f"{ONES}@@{CHAINED}@@{USED}", 10, 110, threads=8 * 32) == 100 * FLOAT


def product(sums: str) -> str:
    inputs = "{%r2, %r2, %r2, %r2}, {%r2, %r2}"
    return f"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{sums}}}, {inputs}, {{{sums}}};\n"


def test_products(program: Path, tmp_path: Path) -> None:
    """A chain of products waits for each; two chains, of one warp or two, share the tensor core."""
    one, other = product("%f0, %f1, %f2, %f3"), product("%f4, %f5, %f6, %f7")
    assert more(program, tmp_path, f"{ONES}@@{one}@@{USED}", 5, 25) == 20 * PRODUCT
    assert more(program, tmp_path, f"{ONES}@@{one}{other}@@{USED}", 5, 25) == 20 * PRODUCT
    # Eight warps on a scheduler: the tensor core has no time between their products.
    assert more(program, tmp_path, f"{ONES}@@{one}@@{USED}", 5, 25, threads=32 * 32) == 20 * 8 * PRODUCT_RATE


LOAD = "add.u32 %r4, %r4, %r3;\nld.shared.u32 %r3, [%r4];\n"


@pytest.mark.parametrize(("stride", "cycles_of_a_load"), [(0, 1), (4, 1), (8, 2), (128, 32)])
def test_banks_of_shared_memory(program: Path, tmp_path: Path, stride: int, cycles_of_a_load: int) -> None:
    start = f"{ONES}mov.u32 %r5, shared;\nmul.lo.u32 %r4, %r0, {stride};\nadd.u32 %r4, %r4, %r5;\n"
    start += "setp.eq.u32 %p1, %r0, 0;\n" + ("" if stride else "@%p1 ") + "st.shared.u32 [%r4], %r2;\nbar.sync 0;\n"
    taken = more(program, tmp_path, f"{start}@@{LOAD}@@st.global.u32 [%rd2], %r3;\n", 5, 25)
    assert taken == 20 * (SHARED + cycles_of_a_load - 1 + 4)  # and the addition of the address


def test_a_barrier_waits_for_the_last(program: Path, tmp_path: Path) -> None:
    """Warp 1 computes, then both meet, then warp 0 does: one after the other; without the barrier at the same time."""
    body = f"""{ONES}setp.lt.u32 %p1, %r0, 32;
    @%p1 bra MEET;
    @@{CHAINED}@@
MEET:
    bar.sync 0;
    @!%p1 bra DONE;
    {{}}
DONE:
"""
    first = more(program, tmp_path, body.replace("{}", CHAINED * 5), 50, 150, threads=64)
    assert first == 100 * FLOAT
    before, repeated, after = body.split("@@")
    both = before + repeated * 50 + after.replace("{}", CHAINED * 60)
    one = before + repeated * 50 + after.replace("{}", CHAINED * 10)
    assert cycles(program, tmp_path, both, threads=64) - cycles(program, tmp_path, one, threads=64) == 50 * FLOAT
    apart = [text.replace("bar.sync 0;", "") for text in (both, one)]
    assert (
        cycles(program, tmp_path, apart[0], threads=64) - cycles(program, tmp_path, apart[1], threads=64) < 20 * FLOAT
    )
    barriers = more(program, tmp_path, f"{ONES}@@bar.sync 0;\n@@", 5, 25, threads=64)
    assert barriers == 20 * BARRIER


MESSAGES = """    mov.u32 %r1, %cluster_ctarank;
    mov.u32 %r5, shared;
    setp.ne.s32 %p1, %r0, 0;
    @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r5], 1;
    fence.mbarrier_init.release.cluster;
READY:
    barrier.cluster.arrive.release;
    barrier.cluster.wait.acquire;
    @%p1 bra DONE;
    xor.b32 %r6, %r1, 1;
    mapa.shared::cluster.u32 %r7, %r5, %r6;
    setp.eq.s32 %p2, %r1, 0;
    mov.u32 %r8, 0;
    mov.u32 %r9, 0;
    @%p2 bra SECOND;
FIRST:
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];
    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r5], %r8;
    xor.b32 %r8, %r8, 1;
    add.s32 %r9, %r9, 1;
    setp.lt.s32 %p3, %r9, ROUNDS;
    @%p3 bra FIRST;
    bra DONE;
SECOND:
    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r5], %r8;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];
    xor.b32 %r8, %r8, 1;
    add.s32 %r9, %r9, 1;
    setp.lt.s32 %p3, %r9, ROUNDS;
    @%p3 bra SECOND;
DONE:
    barrier.cluster.arrive.release;
    barrier.cluster.wait.acquire;
"""


def test_messages_between_blocks_of_a_cluster(program: Path, tmp_path: Path) -> None:
    """There and back, again and again."""
    few, many = (cycles(program, tmp_path, MESSAGES.replace("ROUNDS", str(n)), blocks=2, cluster=2) for n in (3, 13))
    assert 2 * (REMOTE + PHASE) <= (many - few) / 10 <= 2 * (REMOTE + PHASE) + 30  # and the loop's instructions


WORDS = """    mov.u32 %r1, %ctaid.x;
    setp.ne.s32 %p1, %r0, 0;
    @%p1 bra DONE;
    mov.u32 %r9, 0;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd2, %rd0, %rd3;
    setp.eq.s32 %p2, %r1, 0;
AGAIN:
    add.s32 %r9, %r9, 1;
    @%p2 st.relaxed.gpu.global.u32 [%rd0], %r9;
LOOK:
    xor.b32 %r6, %r1, 1;
    mul.wide.u32 %rd3, %r6, 4;
    add.s64 %rd3, %rd0, %rd3;
    ld.relaxed.gpu.global.u32 %r2, [%rd3];
    setp.ge.s32 %p3, %r2, %r9;
    @%p3 bra SEEN;
    mov.u32 %r3, 20;
    nanosleep.u32 %r3;
    bra LOOK;
SEEN:
    @!%p2 st.relaxed.gpu.global.u32 [%rd0+4], %r9;
    setp.lt.s32 %p3, %r9, ROUNDS;
    @%p3 bra AGAIN;
DONE:
"""


def test_words_in_global_memory(program: Path, tmp_path: Path) -> None:
    """There and back: each way the look that sees it, and part of the look that did not."""
    few, many = (cycles(program, tmp_path, WORDS.replace("ROUNDS", str(n)), blocks=2) for n in (3, 13))
    assert 2 * L2 <= (many - few) / 10 <= 2 * (2 * L2 + 100)


def test_a_fence_waits_for_stores_and_a_wait_for_copies(program: Path, tmp_path: Path) -> None:
    """Each time until they have arrived, and a few slots."""
    fenced = f"{ONES}setp.eq.u32 %p1, %r0, 0;\n@@st.global.u32 [%rd2], %r2;\n@%p1 fence.acq_rel.gpu;\n@@"
    copied = f"{ONES}mov.u32 %r5, shared;\nmul.lo.u32 %r6, %r0, 16;\nadd.u32 %r5, %r5, %r6;\n@@" + (
        "cp.async.cg.shared.global [%r5], [%rd0], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\n@@"
    )
    for body, latency in ((fenced, 2 * L2), (copied, L2 + SHARED)):
        assert 20 * latency <= more(program, tmp_path, body, 5, 25) <= 20 * (latency + 8)
    apart = fenced.replace("@%p1 fence.acq_rel.gpu;\n", "")
    assert more(program, tmp_path, apart, 5, 25) < 20 * 10
