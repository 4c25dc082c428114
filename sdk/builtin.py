"""What the SDK registers: the client commands."""

from __future__ import annotations
