from __future__ import annotations

import sys
from pathlib import Path

for folder in ("engine", "gateway"):
    found = str(Path(__file__).parents[1] / folder / "fakes")
    if found not in sys.path:
        sys.path.insert(0, found)
