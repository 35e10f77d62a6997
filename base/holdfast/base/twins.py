"""Innermost loops that exist twice: in Python, which says what they do, and in C, which does it faster.

Who has one asks for the C twin when it is imported, and goes on in Python if there is none: the package was
built without a compiler (hatch_build.py), or HOLDFAST_PLAIN is set, for whatever is to run the very code that
is read.
"""

import importlib
import os
from types import ModuleType

PLAIN_VARIABLE = "HOLDFAST_PLAIN"


def twin(name: str) -> ModuleType | None:
    """The extension module of that full name; None where Python is to do its work."""
    if os.environ.get(PLAIN_VARIABLE):
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
