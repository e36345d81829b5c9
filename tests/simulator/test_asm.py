"""Inline PTX that touches memory or orders it says so to the compiler.

What a "memory" clobber keeps nvcc from may not show in the PTX of today, so that no run of it finds one missing. The
text does.
"""

from __future__ import annotations

import re

import pytest
from places import ROOT

CSRC = ROOT / "csrc"
STATEMENT = re.compile(r"\b(asm volatile|asm|LSTM_FUSED_SM90_ASM)\(")
OF_MEMORY = re.compile(r'[";{}\s](ld|st|atom|red|cp|bar|barrier|mbarrier|fence|membar)\.')


def statements(text: str) -> list[str]:
    """Each asm statement, from its name to the parenthesis that closes it."""
    found = []
    for match in STATEMENT.finditer(re.sub(r"^#.*$", "", text, flags=re.MULTILINE)):
        rest, depth, in_string = match.string[match.start() :], 0, False
        for at, character in enumerate(rest):
            in_string ^= character == '"'
            depth += 0 if in_string else {"(": 1, ")": -1}.get(character, 0)
            if character == ")" and depth == 0:
                found.append(rest[: at + 1])
                break
    return found


def faults(text: str) -> list[str]:
    wrong = []
    for statement in statements(text):
        if OF_MEMORY.search(statement) and (statement.startswith("asm(") or not statement.endswith('"memory")')):
            wrong.append(statement)
    return wrong


SOURCES = {str(path.relative_to(CSRC)): path.read_text() for path in sorted(CSRC.rglob("*.cu*"))}
PLACES = [(name, n) for name, text in SOURCES.items() for n, s in enumerate(statements(text)) if OF_MEMORY.search(s)]


@pytest.mark.parametrize("name", SOURCES)
def test_what_touches_memory_says_so(name: str):
    assert faults(SOURCES[name]) == []


def test_none_is_overlooked():
    """As many of them as there are lines with such an instruction."""
    lines = [line for text in SOURCES.values() for line in text.splitlines() if '"' in line and OF_MEMORY.search(line)]
    assert len(PLACES) == len(lines) > 20


@pytest.mark.parametrize(("name", "number"), PLACES)
def test_a_missing_clobber_is_found(name: str, number: int):
    statement = statements(SOURCES[name])[number]
    for planted in (statement.replace(' : "memory")', ")"), statement.replace("asm volatile(", "asm(")):
        if planted != statement:
            assert faults(SOURCES[name].replace(statement, planted, 1)) == [planted]
    assert '"memory"' in statement
