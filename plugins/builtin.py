"""The built-in plugins: everything that `taskloom.plugins` registers, through the hooks that any plugin uses."""

from __future__ import annotations
