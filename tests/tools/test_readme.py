"""What the pages show works as it stands there."""

import re
from pathlib import Path

import pytest
from places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *(
            f"docs/{name}.md"
            for name in ("index", "start", "lengths", "pytorch", "other-code", "streaming", "lstm", "cells")
        ),
    ],
)
def test_python_runs(page: str):
    """Blocks of one page see what earlier ones have defined."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_manual_has_what_its_pages_link_to():
    """`make docs` takes a link to a page that is none of its own for an error."""
    config: dict = {"__file__": str(ROOT / "docs" / "conf.py")}
    exec((ROOT / "docs" / "conf.py").read_text(), config)
    own = {path for pattern in config["include_patterns"] for path in ROOT.glob(pattern.replace("**", "**/*"))}
    for page in own & {path for path in PAGES if path.parent.name == "docs"}:
        for target in re.findall(r"\]\((?!https?:)([^)#]+\.md)", page.read_text()):
            linked = (page.parent / target).resolve()
            assert linked in own or linked == ROOT / "README.md", (page.name, target)
