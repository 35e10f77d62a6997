"""Innermost loops that exist twice: in Python, which says what they do, and in C, which does it faster.

Who has one asks for the C twin when it is imported, and goes on in Python if there is none: the package was
built without a compiler (hatch_build.py), or HOLDFAST_PLAIN is set, for whatever is to run the very code that
is read. The same if the twin was built from another source than lies beside it, as after an update that
nobody built: each is made for the Python code of its own commit, whose slots it fills.
"""

import importlib
import logging
import os
from _blake2 import blake2b  # hashlib would load OpenSSL, for what it is not needed
from pathlib import Path
from types import ModuleType

PLAIN_VARIABLE = "HOLDFAST_PLAIN"

_log = logging.getLogger(__name__)


def source_of(code: Path) -> str:
    """What says that a twin was built from this C file and from the headers that lie beside this module."""
    digest = blake2b(code.read_bytes(), digest_size=32)
    for header in sorted(Path(__file__).parent.glob("*.h")):
        digest.update(header.read_bytes())
    return digest.hexdigest()


def twin(name: str) -> ModuleType | None:
    """The extension module of that full name; None where Python is to do its work."""
    if os.environ.get(PLAIN_VARIABLE):
        return None
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        _log.warning("%s cannot be loaded, its Python form serves: %s", name, error)
        return None
    assert module.__file__ is not None
    code = Path(module.__file__).with_name(name.rpartition(".")[2] + ".c")
    if code.exists() and source_of(code) != getattr(module, "SOURCE", ""):
        _log.warning("%s was built from another source, its Python form serves: install anew", name)
        return None
    return module
