"""Why a test may be skipped, or fail: the table in docs/conformance.md."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
_ROW = re.compile(r"^\| (`.*?`) \| (.*?) \|$", re.MULTILINE)


def read_reasons(text: str) -> dict[str, str]:
    """Patterns of test names, and the reason of each."""
    return {
        pattern: why for patterns, why in _ROW.findall(text) for pattern in re.findall(r"`(.*?)`", patterns)
    }


def reason_for(name: str, reasons: dict[str, str]) -> str:
    """Empty if there is none."""
    return next((why for pattern, why in reasons.items() if fnmatchcase(name, pattern)), "")
