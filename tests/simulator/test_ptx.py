"""The simulator's PTX: what instructions compute, what the parser refuses, and faults that compiled code alone has."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import simulation
from ptx_reference import from_bits, mask, reference, to_bits, width

# Hardware's own approximations, and formats that Python lacks: tested apart.
APPROXIMATE = re.compile(r"approx|bf16|f16x2|tf32")
# What moves values rather than computing them.
MOVES = re.compile(r"^(mov|selp|cvta)\.")


@pytest.fixture(scope="module")
def program() -> Path:
    return simulation.build("ptx-program", ["tests/sim/ptx/program/main.cpp"])


def call(program: Path, *arguments: object, data: bytes = b"") -> bytes:
    command = [str(word) for word in (program, *arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def opcodes(program: Path) -> dict[str, list[int]]:
    """Every instruction, and the bits of its operands."""
    lines = (line.split(":", 1) for line in call(program, "list").decode().splitlines() if not line.startswith(" "))
    return {name: list(map(int, bits.split())) for name, bits in (line.rsplit(":", 1) for line in map(":".join, lines))}


def compute(program: Path, opcode: str, operands: np.ndarray, results: int = 1) -> np.ndarray:
    data = call(program, "compute", opcode, results, operands.shape[1], data=operands.astype("<u8").tobytes())
    return np.frombuffer(data, "<u8").reshape(len(operands), results)


# ---- what instructions compute

EDGES = {
    "f": [0.0, -0.0, 1.0, -1.5, 0.5, 2.5, -2.5, 3.0e38, 1e-38, 1e-44, math.inf, -math.inf, math.nan, 2.0**-126],
    "i": [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100],
}


def samples(type_name: str, count: int, rng: np.random.Generator) -> list[int]:
    """Bits of numbers of the type: edges, then any, then such as lie close together."""
    bits = width(type_name)
    if type_name[0] == "f":
        edges = [to_bits(number, type_name) for number in EDGES["f"] if bits > 16 or abs(number) < 60000]
        near = [to_bits(number, type_name) for number in rng.normal(size=count // 3)]
    else:
        edges = [
            number & mask(bits) for n in EDGES["i"] for number in (n, -n, (1 << bits - 1) + n, (1 << bits - 1) - n)
        ]
        near = [int(n) & mask(bits) for n in rng.integers(-40, 40, count // 3)]
    known = [*edges, *near]
    chosen = [known[n] for n in rng.integers(0, len(known), count // 2)]
    return [*chosen, *(int(n) & mask(bits) for n in rng.integers(0, 2**64, count - len(chosen), dtype=np.uint64))]


def computing(opcodes: dict[str, list[int]]) -> list[str]:
    memory = re.compile(
        r"^(ld|st|atom|cp|bra|call|ret|exit|trap|nanosleep|bar|barrier|shfl|vote|mma|mapa|mbarrier|fence)\b"
    )
    return sorted(name for name in opcodes if not (memory.match(name) or MOVES.match(name) or APPROXIMATE.search(name)))


def same(got: int, wanted: float | int, type_name: str) -> bool:
    if type_name[0] == "f":
        number = from_bits(got, type_name)
        return number == wanted or (math.isnan(number) and math.isnan(wanted))
    return got == to_bits(wanted, type_name)  # the bits above are zero


def test_what_instructions_compute(program: Path, opcodes: dict[str, list[int]]) -> None:
    """Each with some hundred operands, against Python's own numbers."""
    rng = np.random.default_rng(0)
    names = computing(opcodes)
    assert len(names) > 200
    for opcode in names:
        types, function = reference(opcode)
        assert [width(name) for name in types] == opcodes[opcode], opcode
        columns = [samples(name, 400, rng) for name in types[1:]]
        if opcode.startswith(("div", "rem")):
            columns[1] = [word or 1 for word in columns[1]]
        got = compute(program, opcode, np.array(columns, np.uint64).T)[:, 0]
        for words, result in zip(zip(*columns), got):
            numbers = [from_bits(word, name) for word, name in zip(words, types[1:])]
            wanted = function(*numbers)
            assert same(int(result), wanted, types[0]), f"{opcode} of {numbers}: {result:#x}, wanted {wanted}"


def test_division_that_has_no_result_traps_nowhere(program: Path) -> None:
    for bits in (16, 32, 64):
        smallest, minus_one = 1 << bits - 1, mask(bits)
        words = np.array([[smallest, minus_one], [5, 0]], np.uint64)
        assert compute(program, f"div.s{bits}", words)[0, 0] == smallest
        assert compute(program, f"rem.s{bits}", words)[0, 0] == 0


@pytest.mark.parametrize(
    ("opcode", "function", "error"),
    [
        ("ex2.approx.ftz.f32", np.exp2, 2.0**-24),
        ("tanh.approx.f32", np.tanh, 2.0**-11),
        ("rcp.approx.ftz.f32", np.reciprocal, 2.0**-24),
        ("rcp.approx.ftz.f64", np.reciprocal, 2.0**-19),
    ],
)
def test_approximations(program: Path, opcode: str, function: np.ufunc, error: float) -> None:
    dtype, unsigned = (np.float64, np.uint64) if opcode.endswith("64") else (np.float32, np.uint32)
    x = np.concatenate([np.random.default_rng(0).uniform(-30, 30, 1000), [1e-39, -1e-39, np.inf, 0, 200]]).astype(dtype)
    got = compute(program, opcode, x.view(unsigned).astype(np.uint64)[:, None])[:, 0].astype(unsigned).view(dtype)
    finite = slice(0, 1000)
    assert np.abs(got[finite] / function(x[finite].astype(np.float64)) - 1).max() < error
    if "ftz" in opcode and dtype == np.float32:  # what is too small for a normal number is zero
        with np.errstate(divide="ignore", over="ignore"):
            np.testing.assert_array_equal(got[1000:], function(np.array([0, -0.0, np.inf, 0, 200], dtype)))


@pytest.mark.parametrize("opcode", ["mov.b32 pack 2", "mov.b64 pack 2", "mov.b64 pack 4"])
def test_packing(program: Path, opcode: str) -> None:
    parts, bits = int(opcode[-1]), int(opcode[5:7])
    small = bits // parts
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**small, (100, parts), dtype=np.uint64)
    whole = compute(program, opcode, words)
    assert whole[:, 0].tolist() == [sum(int(word) << small * n for n, word in enumerate(row)) for row in words]
    back = compute(program, opcode.replace("pack", "unpack"), whole, results=parts)
    assert (back == words).all()


def test_selection(program: Path) -> None:
    words = np.array([[5, 2**40, 1], [5, 2**40, 0]], np.uint64)
    assert compute(program, "selp.b64", words)[:, 0].tolist() == [5, 2**40]


def test_formats_that_python_lacks(program: Path) -> None:
    one_and_a_bit, tie = 0x3F808000, 0x3F801000  # halfway to the next number of bfloat16, of TF32
    words = np.array([[one_and_a_bit], [one_and_a_bit + 1], [0x3F818000], [0x7FC00001]], np.uint64)
    assert compute(program, "cvt.rn.bf16.f32", words)[:, 0].tolist() == [0x3F80, 0x3F81, 0x3F82, 0x7FFF]
    two = np.array([[0x3F808000, 0xC0000000]], np.uint64)  # the first becomes the upper half
    assert compute(program, "cvt.rn.bf16x2.f32", two)[:, 0].tolist() == [0x3F80C000]
    assert compute(program, "cvt.rn.f16x2.f32", two)[:, 0].tolist() == [0x3C04C000]
    words = np.array([[tie], [tie - 1], [0xBF801000]], np.uint64)
    assert compute(program, "cvt.rna.tf32.f32", words)[:, 0].tolist() == [0x3F802000, 0x3F800000, 0xBF802000]


# ---- kernels written by hand

HEAD = """.version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 128 .b8 shared[];
.visible .entry kernel(.param .u64 kernel_param_0)
.maxntid 64, 1, 1
{
    .reg .pred %p<4>;
    .reg .b16 %h<4>;
    .reg .b32 %r<16>;
    .reg .f32 %f<8>;
    .reg .b64 %rd<4>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [kernel_param_0];
    mul.wide.u32 %rd1, %r0, 4;
    add.s64 %rd2, %rd0, %rd1;
"""
BODY_LINE = HEAD.count("\n") + 1
TAIL = "ret;\n}\n"


def write(folder: Path, body: str) -> Path:
    path = folder / "kernel.ptx"
    path.write_text(HEAD + body + TAIL)
    return path


def run(program: Path, path: Path, blocks: int = 1, threads: int = 32, seeds: int = 5, cluster: int = 1) -> list[str]:
    done = call(program, "run", path, blocks, threads, 1024, cluster, 64, seeds)
    return done.decode().splitlines()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("sin.approx.f32 %f1, %f2;", "unknown instruction sin.approx.f32"),
        ("add.s33 %r1, %r2, %r3;", "unknown instruction add.s33"),
        ("ld.const.u32 %r1, [%rd2];", "unknown instruction ld.const.u32"),
        ("ld.volatile.global.u32 %r1, [%rd2];", "unknown instruction ld.volatile.global.u32"),
        ("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r1}, {%r2}, {%r3}, {%r4};", "unknown instruction mma"),
        ("add.s32 %r1, %rd2, %r3;", "%rd2 has 64 bits, not 32"),
        ("add.s32 %r1, %r2, %h3;", "%h3 has 16 bits, not 32"),
        ("st.global.u32 [%rd2], %h1;", "%h1 has 16 bits, not 32"),
        ("ld.global.u32 %r1, [%r2];", "%r2 has 32 bits"),
        ("add.s32 %r1, %r2, %r99;", "no register %r99"),
        ("add.s32 %r1, %r2, %clock;", "no register %clock"),
        ("bra NOWHERE;", "no label NOWHERE"),
        ("mov.u32 %r1, other;", "no register other"),
        ("call.uni other, ();", "no function other"),
        (".sreg .b32 x;", "unknown directive .sreg"),
        ('.pragma "frequency 3";', "unknown pragma frequency 3"),
        ("add.s32 %r1, %r2;", "expected ,, got ;"),
        ("@%r1 bra NEXT;", "no predicate: %r1"),
    ],
)
def test_what_is_not_known_is_an_error_with_its_line(
    program: Path, tmp_path: Path, statement: str, complaint: str
) -> None:
    assert call(program, "parse", write(tmp_path, "mov.u32 %r2, 1;\n")) == b"ok\n"
    said = call(program, "parse", write(tmp_path, f"mov.u32 %r2, 1;\n{statement}\n")).decode()
    assert complaint in said
    line = int(re.match(r"kernel.ptx:(\d+): ", said)[1])
    assert line == BODY_LINE + 1 or (statement.startswith("bra") and line > BODY_LINE)


def test_branches_calls_and_guards(program: Path, tmp_path: Path) -> None:
    """The sum of 1 ... n by a loop, twice that by a function, and one more for odd threads."""
    function = """.func (.param .b32 func_retval0) twice(.param .b32 twice_param_0)
{
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [twice_param_0];
    shl.b32 %r2, %r1, 1;
    st.param.b32 [func_retval0+0], %r2;
    ret;
}
"""
    body = """mov.u32 %r1, 0;
    mov.u32 %r2, %r0;
AGAIN:
    setp.eq.s32 %p1, %r2, 0;
    @%p1 bra DONE;
    add.s32 %r1, %r1, %r2;
    add.s32 %r2, %r2, -1;
    bra AGAIN;
DONE:
    {
    .param .b32 param0;
    st.param.b32 [param0+0], %r1;
    .param .b32 retval0;
    call.uni (retval0), twice, (param0);
    ld.param.b32 %r3, [retval0+0];
    }
    and.b32 %r4, %r0, 1;
    setp.ne.s32 %p2, %r4, 0;
    @%p2 add.s32 %r3, %r3, 1;
    st.global.u32 [%rd2], %r3;
"""
    path = write(tmp_path, body)
    text = path.read_text().replace(".visible", f"{function}.visible", 1)
    path.write_text(text)
    wanted = [n * (n + 1) + n % 2 for n in range(32)] + [0] * 32
    assert run(program, path, seeds=1) == ["ok " + " ".join(map(str, wanted))]


# ---- what only compiled code does wrong: each kernel, the text that makes it wrong, and the report

BARRIER_IN_TWO_PLACES = """    setp.lt.u32 %p1, %r0, 16;
    @%p1 bra OTHER;
    bar.sync 0;
    bra DONE;
OTHER:
    bar.sync 0;
DONE:
"""
FAULTS = {
    "register": ("add.s32 %r1, %r0, 1;", "", "add.s32 %r2, %r1, 1;", "uses a register that was never written"),
    "moved register": ("mov.u32 %r1, 1;", "", "mov.u32 %r2, %r1; add.s32 %r3, %r2, 1;", "never written"),
    "guard": ("setp.eq.s32 %p1, %r0, 1;", "", "@%p1 mov.u32 %r1, 1;", "uses as its guard a register that was never"),
    "address": ("add.s64 %rd3, %rd2, 0;", "", "ld.global.u32 %r1, [%rd3];", "never written"),
    "stored": ("mov.u32 %r1, 1;", "", "st.global.u32 [%rd2], %r1;", "never written"),
    "misaligned": (
        "mul.wide.u32 %rd1, %r0, 8; add.s64 %rd3, %rd0, %rd1;",
        "add.s64 %rd3, %rd2, 0;",
        "ld.global.v2.u32 {%r1, %r2}, [%rd3];",
        "reads 8 bytes of global memory: misaligned",
    ),
    "unaligned barrier": ("bar.sync 0;", BARRIER_IN_TWO_PLACES, "", "lanes of a warp are at different instructions"),
    "trap": ("", "trap;", "", "trap"),
    "half a warp": (
        "mov.u32 %r1, -1; bar.warp.sync %r1;",
        "mov.u32 %r1, 65535; bar.warp.sync %r1;",
        "",
        "not of all lanes",
    ),
    "null pointer": ("mov.u32 %r1, shared;", "mov.u32 %r1, 0;", "st.shared.u32 [%r1], %r0;", "out of bounds|race"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_compiled_code(program: Path, tmp_path: Path, name: str) -> None:
    right, wrong, after, report = FAULTS[name]
    threads = 1 if name == "null pointer" else 32
    fine = run(program, write(tmp_path, f"{right}\n{after}\n"), threads=threads)
    assert all(line.startswith("ok") for line in fine), fine
    found = run(program, write(tmp_path, f"{wrong}\n{after}\n"), threads=threads)
    assert all(line.startswith("fault: ") and re.search(report, line) for line in found), found


def test_a_register_that_is_only_moved_may_be_unwritten(program: Path, tmp_path: Path) -> None:
    path = write(tmp_path, "mov.u32 %r2, %r1;\nsetp.eq.s32 %p1, %r0, %r0;\nselp.u32 %r3, %r0, %r2, %p1;\n")
    assert run(program, path, seeds=1)[0].startswith("ok")


PASSED_ON = """    mov.u32 %r1, %ctaid.x;
    setp.ne.s32 %p1, %r0, 0;
    @%p1 bra DONE;
    setp.ne.s32 %p2, %r1, 0;
    @%p2 bra SECOND;
    st.relaxed.gpu.global.u32 [%rd0], 7;
    bra DONE;
SECOND:
    ld.relaxed.gpu.global.u32 %r2, [%rd0];
    setp.ne.s32 %p3, %r2, 0;
    @%p3 bra THERE;
    mov.u32 %r3, 20;
    nanosleep.u32 %r3;
    bra SECOND;
THERE:
    st.global.u32 [%rd0+8], %r2;
DONE:
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("st.relaxed.gpu.global", "st.global"),
        ("THERE:\n", "THERE:\nld.global.u32 %r2, [%rd0];\n"),
        ("st.relaxed.gpu.global.u32 [%rd0], 7;", "st.global.u32 [%rd0+4], 7;\nst.relaxed.gpu.global.u32 [%rd0], 7;"),
    ],
)
def test_what_another_block_wrote_is_relaxed_on_both_sides(
    program: Path, tmp_path: Path, right: str, wrong: str
) -> None:
    """Whatever instruction reads or writes it, not the primitives' alone. Nothing is said of what lies beside it."""
    reads = PASSED_ON.replace("THERE:\n", "THERE:\nld.global.u32 %r3, [%rd0+4];\n") if "+4" in wrong else PASSED_ON
    fine = run(program, write(tmp_path, reads), blocks=2)
    assert fine == [f"ok 7 0 7{' 0' * 61}"] * 5
    found = run(program, write(tmp_path, reads.replace(right, wrong)), blocks=2, seeds=20)
    assert all(re.search("race: (reads|writes) global memory", line) for line in found), found
