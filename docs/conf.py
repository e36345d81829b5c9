"""The manual: `make docs` builds it from these pages and the docstrings, without a network."""

import lstm_fused

project = "lstm_fused"
author = copyright = "lstm_fused contributors"
release = version = lstm_fused.__version__
# From the root of the repository, so that links between pages and to measured results are what they are in it.
root_doc = "docs/index"
include_patterns = ["docs/*.md", "bench/results/**.md", "CONTRIBUTING.md", "CHANGELOG.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say more: shapes, units
autodoc_member_order = "bysource"
napoleon_use_rtype = False
html_theme = "furo"
html_title = f"lstm_fused {release}"
html_copy_source = False
