"""One build serves every torch since the oldest: csrc/torch against the stable headers of each, and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setup_file
import toolchain
from filelock import FileLock

import lstm_fused

ROOT = setup_file.ROOT
RELEASES = ("2.10.0", "2.11.0", "2.12.1", "2.14.1")
# The parts of torch's headers that promise to stay: C++ over them, and the C functions below.
STABLE = tuple(f"torch/include/torch/{folder}/" for folder in ("csrc/stable", "headeronly", "csrc/inductor/aoti_torch"))


def headers(release: str) -> Path:
    """The stable headers of a release, from its smallest wheel, macOS's; kept in build/ for the next run."""
    folder = ROOT / "build" / "torches" / release
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        include = folder / "torch" / "include"
        if include.exists():
            return include
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"torch=={release}"]
        pip += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
        pip += [f"--platform=macosx_{version}_0_arm64" for version in (11, 14)]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode != 0:
            error = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr)
            reason = f"the wheel of torch {release} cannot be downloaded: {error}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder / "part", [name for name in file.namelist() if name.startswith(STABLE)])
        wheel.unlink()
        (folder / "part" / "torch").rename(folder / "torch")
        return include


def build_of(release: str) -> tuple[str, Path]:
    """This build with csrc/torch against the release's headers: its build.ninja, and the library that it links."""
    here, include = toolchain.find_torch(), headers(release)
    folder = Path("build", "ninja")
    own = include.parents[1].relative_to(ROOT)
    text = setup_file.load().ninja_file(folder, "_plan.so", here, toolchain.find_cuda())
    library = own / "lstm_fused" / "liblstm_fused.so"
    for old, new in (
        (f"{here.root}/include", str(include)),
        (f"{folder}/csrc/torch/", f"{own}/csrc/torch/"),
        (f"{folder}/liblstm_fused.so", str(library)),
    ):
        assert old in text
        text = text.replace(old, new)
    # Of these objects alone, so that no other is compiled again.
    text, count = re.subn(rf"^(build {own}/csrc/torch/.*\n  flags =)", r"\1 -Werror", text, flags=re.MULTILINE)
    assert count
    return text, library


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES[1:])
def test_compiles_without_a_warning(release: str) -> None:
    """The first one is built below."""
    text, _ = build_of(release)
    shared = shlex.split(re.search(r"rule cxx\n  command = (.*) \$flags", text)[1])
    sources = [(source, own) for source, own in setup_file.compiled(text) if source.startswith("csrc/torch/")]
    assert sources
    for source, own in sources:
        command = [*shared, *own, "-fsyntax-only", source]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.slow
def test_a_build_with_the_oldest_runs_here() -> None:
    text, library = build_of(RELEASES[0])
    folder = (ROOT / library).parent
    shutil.copytree(Path(lstm_fused.__file__).parent, folder, dirs_exist_ok=True, ignore=lambda *_: [library.name])
    (folder / "build.ninja").write_text(text)
    ninja = [toolchain.find_ninja(), "-f", folder / "build.ninja", library]
    built = subprocess.run(ninja, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:]
    where = "import lstm_fused; print(lstm_fused.__file__)"
    for command, said in ((["-c", where], f"{folder / '__init__.py'}\n"), (["-m", "lstm_fused"], "\nall OK\n")):
        done = subprocess.run([sys.executable, *command], cwd=folder.parent, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.endswith(said), done.stdout + done.stderr
