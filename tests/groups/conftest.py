"""The campaign's files are a program's, beside each other: its tests import them as it does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
