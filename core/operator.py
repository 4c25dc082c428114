"""Who runs a command, for the audit log."""

from __future__ import annotations

import getpass
import os


def operator() -> str:
    """The account on this machine: `os:NAME`, or `os:UID` for one that has no name, as in many containers."""
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"os:{os.getuid()}"
