"""Faults planted in the primitives' own instructions, which the twin cannot have, and in the exchange of a `group`:
each is caught as PTX."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import ptx
import pytest
import torch
from cases import Case, draw
from numerics import fused
from places import ROOT
from simulated import Simulator
from test_ptx_primitives import SOURCE, program, run, same_bits, twin

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ptx.CUDA is None, reason="no CUDA toolkit found: nothing to compile PTX with"),
]
__all__ = ["program", "twin"]  # fixtures

PRIMITIVES, CLUSTER, ACCESSES = (f"kernels/{name}.cuh" for name in ("primitives", "cluster_primitives", "accesses"))
# What is wrong: the file, the text that is right, and the text in its place. All of these compile. (Where a statement
# is volatile nvcc makes the same PTX without its clobber: test_asm.py looks at those.)
PLANTS = {
    "operands of mma in another order": (
        PRIMITIVES,
        '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])',
        '"r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b[0]), "r"(b[1])',
    ),
    "halves of b exchanged": (PRIMITIVES, '"r"(b[0]), "r"(b[1])', '"r"(b[1]), "r"(b[0])'),
    "sums of mma in another order": (
        PRIMITIVES,
        '"+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])',
        '"+f"(d[0]), "+f"(d[1]), "+f"(d[3]), "+f"(d[2])',
    ),
    "mma that forgets its sums": (PRIMITIVES, '"+f"(d[0]), "+f"(d[1])', '"=f"(d[0]), "=f"(d[1])'),
    "mma of another type": (PRIMITIVES, "f32.bf16.bf16.f32", "f32.f16.f16.f32"),
    "conversion from the wrong type": (PRIMITIVES, "cvt.rn.bf16.f32 %0", "cvt.rn.f16.f32 %0"),
    "halves of two exchanged": (PRIMITIVES, '"f"(second), "f"(first)', '"f"(first), "f"(second)'),
    "TF32 not rounded": (
        PRIMITIVES,
        'asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(float_bits)))',
        'asm("mov.b32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(float_bits)))',
    ),
    "approximation of another function": (PRIMITIVES, "ex2.approx.ftz.f32", "rcp.approx.ftz.f32"),
    "result that is never written": (
        PRIMITIVES,
        'asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));',
        '(void)x; asm("" : "=f"(y));',
    ),
    "copies that are not closed": (PRIMITIVES, 'asm volatile("cp.async.commit_group;" ::: "memory");', ""),
    "wait for one copy less": (PRIMITIVES, '"n"(n)', '"n"(n + 1)'),
    "named barrier with operands exchanged": (CLUSTER, '::"r"(id), "r"(threads)', '::"r"(threads), "r"(id)'),
    "words of a remote store in another order": (
        CLUSTER,
        '"r"(word[0]),\n                        "r"(word[1]) : "memory"',
        '"r"(word[1]),\n                        "r"(word[0]) : "memory"',
    ),
    "cluster barrier without its wait": (CLUSTER, '"barrier.cluster.wait.acquire;"', '""'),
    "mapped to itself": (CLUSTER, '"r"(rank));', '"r"(cluster_rank()));'),
    "fence forgotten": (CLUSTER, '"fence.mbarrier_init.release.cluster;"', '""'),
    "parity exchanged": (CLUSTER, '"r"(parity) : "memory"', '"r"(parity ^ 1) : "memory"'),
    "arrival that expects nothing": (CLUSTER, '"r"(bytes) : "memory"', '"r"(0) : "memory"'),
    "fence that is none": (CLUSTER, '"fence.acq_rel.gpu;"', '""'),
    "vector of which one word is stored": (
        CLUSTER,
        '"@p st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};',
        '"@p st.relaxed.gpu.global.u32 [%0], %1;',
    ),
    "words of a vector in another order": (
        CLUSTER,
        '"@p st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};',
        '"@p st.relaxed.gpu.global.v4.u32 [%0], {%1, %3, %2, %4};',
    ),
    "load where none is wanted": (ACCESSES, "@p ld.global.b16 %0, [%2]", "ld.global.b16 %0, [%2]"),
    "words of a vector that are loaded in another order": (
        ACCESSES,
        "@p ld.global.v4.b32 {%0, %1, %2, %3}",
        "@p ld.global.v4.b32 {%0, %2, %1, %3}",
    ),
    "store where none but the others is wanted": (ACCESSES, "@p st.global.b32 [%0]", "@!p st.global.b32 [%0]"),
    "store where none is wanted": (CLUSTER, "@p st.relaxed.gpu.global.u32", "st.relaxed.gpu.global.u32"),
    "load one byte early": (CLUSTER, "setp.gt.s32 p, %5, %6;", "setp.ge.s32 p, %5, %6;"),
    "offset forgotten": (CLUSTER, "[%4+%6]", "[%4]"),
    "words that are loaded once": (
        CLUSTER,
        """asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(words.word[0]) : "l"(p) : "memory")""",
        """asm("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(words.word[0]) : "l"(p))""",
    ),
    "words that are loaded plainly": (CLUSTER, "ld.relaxed.gpu.global.v2.u32", "ld.global.v2.u32"),
}


def compile_with(tmp_path: Path, name: str, right: str, wrong: str, source: Path) -> Path:
    """The folder with the PTX of `source`, where the file of csrc has one text in place of the other."""
    csrc = tmp_path / "csrc"
    shutil.copytree(ptx.CSRC, csrc, ignore=shutil.ignore_patterns("*.cu", "*.cpp"))
    text = (csrc / name).read_text()
    assert right in text
    (csrc / name).write_text(text.replace(right, wrong))
    command = [*ptx.nvcc("90a", csrc=csrc), source, "-o", tmp_path / f"{source.stem}.ptx"]
    compiled = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    return tmp_path


@pytest.mark.parametrize("plant", PLANTS)
def test_a_wrong_instruction_is_caught(program: Path, twin: dict[str, np.ndarray], tmp_path: Path, plant: str) -> None:
    """By a report, or by other words than the twin's."""
    folder = compile_with(tmp_path, *PLANTS[plant], SOURCE)
    for seed in range(5):
        words, error = run(program, seed, folder)
        if error or not all(same_bits(of, theirs, twin[of]) for of, theirs in words.items()):
            return
    pytest.fail("nothing was caught")


EXCHANGE, PRODUCT, IN_PAIRS = (f"kernels/group_{name}.cuh" for name in ("exchange", "product", "pairs"))
# Those of the last two are of groups of five tiles of rows with as many steps.
EXCHANGE_PLANTS = {
    "a vector is there when its first word is": (
        EXCHANGE,
        "for (const uint32_t word : v.word) most = word > most ? word : most;",
        "for (const uint32_t& word : v.word) most = &word == v.word ? word : most;",
    ),
    "slots that are not cleared": (EXCHANGE, "clear(cell(turn.tile, turn.step - 1));", ""),
    "slots that are cleared too early": (
        EXCHANGE,
        "clear(cell(turn.tile, turn.step - 1));",
        "clear(cell(turn.tile, turn.step + 1));",
    ),
    "a word that is sent is taken for none": (EXCHANGE, "word < kGroupMissing ? word : kGroupMissing - 1", "word"),
    "words that are missing are multiplied": (PRODUCT, "return either != either;", "return false;"),
    "slots that pairs do not clear": (IN_PAIRS, "clear(cleared);", ""),
    "slots that pairs clear too early": (IN_PAIRS, "own.turn.step - 1)", "own.turn.step + 1)"),
}


@pytest.mark.parametrize("plant", EXCHANGE_PLANTS)
def test_a_wrong_exchange_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    """Of the blocks of a group, in more steps than there are slots."""
    source = ptx.CSRC / "kernels" / "group_bfloat16.cu"
    simulator = Simulator("sm_90a", kernels=[source])
    in_pairs = EXCHANGE_PLANTS[plant][0] != EXCHANGE
    problem = draw(Case(40, 33 if in_pairs else 3, 5, 33, dtype=torch.bfloat16))
    if "sent" in plant:
        problem.leaves["h_0"].data.view(torch.int16).fill_(-1)

    def bits(seed: int) -> torch.Tensor | None:
        """Of the output; None where there is a report."""
        try:
            with simulator.running("group", seed=seed, num_sms=3), torch.no_grad():
                return fused(problem)["output"].view(torch.int16)
        except RuntimeError as error:
            assert re.search("race|in spin_wait", str(error)), error
            return None

    first, *others = wanted = [bits(seed) for seed in range(5)]
    assert first is not None and all(other is not None and torch.equal(first, other) for other in others)
    folder = compile_with(tmp_path, *EXCHANGE_PLANTS[plant], source)
    monkeypatch.setattr(simulator, "_folder", lambda: str(folder))
    found = [bits(seed) for seed in range(len(wanted))]
    assert any(one is None or not torch.equal(first, one) for one in found)
