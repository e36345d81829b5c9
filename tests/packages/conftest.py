"""For all tests here: Keras's backend, set before keras is imported anywhere, and where the pages' own tests lie."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
sys.path.append(str(Path(__file__).parents[1] / "tools"))  # test_other_code_page
