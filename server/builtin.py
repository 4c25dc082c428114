"""What the server registers: its commands, the audit log and the local engine."""

from __future__ import annotations
