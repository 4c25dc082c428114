"""The example's own tests, run with those of the project."""

from test_langid import TestLangid

__all__ = ["TestLangid"]
