"""The simulation is a program's package, beside these tests: they import it as the program does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
