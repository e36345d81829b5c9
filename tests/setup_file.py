"""setup.py as a module: the build's commands, without building."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from types import ModuleType

from places import ROOT


def load() -> ModuleType:
    """A fresh one at each call: what it asks of the machine, it asks when it is imported."""
    spec = importlib.util.spec_from_file_location("lstm_fused_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def compiled(text: str) -> list[tuple[str, list[str]]]:
    """(source, flags of its own) of everything that a build.ninja compiles with the C++ compiler."""
    found = re.findall(r"^build \S+: cxx (\S+)\n  flags = (.*)$", text, re.MULTILINE)
    return [(source, shlex.split(flags.replace("$$", "$"))) for source, flags in found]
