"""Long-lived processes and Python's cycle collector."""

from __future__ import annotations

import gc


def settle_memory() -> None:
    """To be called once all is loaded. What is there now stays for ever, so the collector need not walk it again each time that
    requests have left enough garbage: with Ray, gRPC and the models' libraries that is a pause which callers feel."""
    gc.collect()
    gc.freeze()
