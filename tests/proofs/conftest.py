"""What the proofs share lies beside them, and is imported by the scripts that they run, too."""

from __future__ import annotations

import pathlib
import sys

# As Python does it for a script that is run from here.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
