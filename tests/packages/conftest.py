"""Keras's backend, for all tests here: it has to be set before keras is imported anywhere."""

import os

os.environ["KERAS_BACKEND"] = "torch"
