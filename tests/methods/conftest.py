"""Puts this folder on the path, so that its tests can import the toy detector in every import mode of pytest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
