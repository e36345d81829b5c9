"""What PTX instructions compute, from NVIDIA's description of them: in Python's own numbers, one at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction

import numpy as np

Function = Callable[..., float | int]

# ---- numbers and their bits


def width(type_name: str) -> int:
    return 1 if type_name == "pred" else int(type_name[1:])


def mask(bits: int) -> int:
    return (1 << bits) - 1


def from_bits(word: int, type_name: str) -> float | int:
    """The number of this type ("s32", "f64", "pred") that a register holds."""
    bits = width(type_name)
    word &= mask(bits)
    if type_name[0] == "f":
        form = {16: "e", 32: "f", 64: "d"}[bits]
        return struct.unpack(f"<{form}", word.to_bytes(bits // 8, "little"))[0]
    return word - (1 << bits) if type_name[0] == "s" and word >> (bits - 1) else word


def to_bits(number: float | int, type_name: str) -> int:
    if type_name[0] == "f":
        return int(np.array(number, f"<f{width(type_name) // 8}").view(f"<u{width(type_name) // 8}"))
    return int(number) & mask(width(type_name))


def rounded(exact: Fraction, type_name: str, down: bool = False) -> float:
    """To the nearest number of the type, ties to even, or to the next one below."""
    digits, smallest, largest = {"f32": (24, -149, 2**128), "f64": (53, -1074, 2**1024)}[type_name]
    unit_of_largest = largest >> digits
    if exact == 0:
        return 0.0
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - digits + 1, smallest)
    count = exact / unit
    value = (math.floor(count) if down else round(count)) * unit
    if abs(value) < largest:
        return float(value)
    if exact < 0:
        return -math.inf
    return float(largest - unit_of_largest) if down else math.inf


def truncated(a: int, b: int) -> int:
    """a / b toward zero, as hardware divides."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


# ---- integers: of how many operands, and what

INTEGERS: dict[str, tuple[int, Function]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "mad": (3, lambda a, b, c: a * b + c),
    "mul.hi": (2, lambda a, b: a * b >> 32),
    "div": (2, truncated),
    "rem": (2, lambda a, b: a - truncated(a, b) * b),
    "min": (2, min),
    "max": (2, max),
    "neg": (1, lambda a: -a),
    "abs": (1, abs),
    "and": (2, lambda a, b: a & b),
    "or": (2, lambda a, b: a | b),
    "xor": (2, lambda a, b: a ^ b),
    "not": (1, lambda a: ~a),
}


def shift_left(bits: int) -> Function:
    return lambda a, by: a << by if by < bits else 0  # Python would make huge numbers of it


def shift_right(a: int, by: int) -> int:
    return a >> by


def extract(a: int, at: int, length: int) -> int:
    return a >> (at & 255) & mask(length & 255)


def insert(bits: int) -> Function:
    def bfi(a: int, b: int, at: int, length: int) -> int:
        field = mask(length & 255) << (at & 255) & mask(bits)
        return (b & ~field) | (a << (at & 255) & field)

    return bfi


def permute(a: int, b: int, selector: int) -> int:
    sources = (b << 32 | a).to_bytes(8, "little")
    result = []
    for n in range(4):
        byte = sources[selector >> 4 * n & 7]
        result.append((0xFF if byte >> 7 else 0) if selector >> 4 * n & 8 else byte)
    return int.from_bytes(bytes(result), "little")


# ---- floats

COMPARISONS: dict[str, Function] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a < b or a > b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "num": lambda a, b: not (math.isnan(a) or math.isnan(b)),
    "nan": lambda a, b: math.isnan(a) or math.isnan(b),
}
UNORDERED = {f"{name}u": name for name in ("eq", "ne", "lt", "le", "gt", "ge")}


def compare(name: str) -> Function:
    if name in UNORDERED:
        return lambda a, b: math.isnan(a) or math.isnan(b) or COMPARISONS[UNORDERED[name]](a, b)
    return COMPARISONS[name]


def arithmetic(operator: Callable, type_name: str) -> Function:
    """Of numpy's, which rounds to the nearest."""
    dtype = np.dtype(f"f{width(type_name) // 8}").type

    def function(*numbers: float) -> float:
        with np.errstate(all="ignore"):
            return float(operator(*map(dtype, numbers)))

    return function


def fma(type_name: str, down: bool = False) -> Function:
    def function(a: float, b: float, c: float) -> float:
        if all(map(math.isfinite, (a, b, c))):
            exact = Fraction(a) * Fraction(b) + Fraction(c)
            return rounded(exact, type_name, down)
        return arithmetic(lambda x, y, z: x * y + z, type_name)(a, b, c)

    return function


# By type: of how many operands, and what.
FLOATS: dict[str, tuple[int, Callable[[str], Function]]] = {
    "add": (2, lambda t: arithmetic(lambda a, b: a + b, t)),
    "sub": (2, lambda t: arithmetic(lambda a, b: a - b, t)),
    "mul": (2, lambda t: arithmetic(lambda a, b: a * b, t)),
    "div": (2, lambda t: arithmetic(lambda a, b: a / b, t)),
    "rcp": (1, lambda t: arithmetic(lambda a: type(a)(1) / a, t)),
    "sqrt": (1, lambda t: arithmetic(np.sqrt, t)),
    "fma": (3, fma),
    "fma.rm": (3, lambda t: fma(t, down=True)),
    "min": (2, lambda t: arithmetic(np.fmin, t)),
    "max": (2, lambda t: arithmetic(np.fmax, t)),
    "neg": (1, lambda t: lambda a: -a),
    "abs": (1, lambda t: abs),
    "copysign": (2, lambda t: lambda sign, magnitude: math.copysign(magnitude, sign)),
}


def convert(into: str, how: str) -> Function:
    if how == "sat":
        return lambda a: 0.0 if math.isnan(a) else min(max(a, 0.0), 1.0)
    if how == "rni":
        return lambda a: float(np.rint(a))

    def function(a: float | int) -> float | int:
        if into[0] != "f" or not math.isfinite(a) or a == 0:
            return a
        with np.errstate(over="ignore"):
            return float(np.float16(a)) if into == "f16" else rounded(Fraction(a), into)

    return function


def reference(opcode: str) -> tuple[list[str], Function]:
    """The types of the instruction's operands, that which is written first, and its function of one number each."""
    name, *more, kind = opcode.split(".")
    number = f"u{kind[1:]}" if kind[0] == "b" else kind  # bits are counted
    how = more[0] if more else ""
    if name == "cvt":
        return [more[-1], kind], convert(more[-1], how)
    if name == "setp":
        return ["pred", number, number], compare(how)
    if name == "prmt":
        return ["u32"] * 4, permute
    if name == "shl":
        return [number, number, "u32"], shift_left(width(number))
    if name == "shr":
        return [number, number, "u32"], shift_right
    if name == "bfi":
        return [number, number, number, "u32", "u32"], insert(width(number))
    if name == "bfe":
        return [number, number, "u32", "u32"], extract
    table: dict = FLOATS if kind[0] == "f" else INTEGERS
    count, function = table.get(f"{name}.{how}") or table[name]
    if kind[0] == "f":
        return [kind] * (count + 1), function(kind)
    wide = f"{number[0]}{2 * width(number)}" if how == "wide" else number
    return [wide, number, number, wide][: count + 1], function
