"""The conformance kit: what every task plugin must do, as tests that a plugin's author subclasses.

    import pytest
    from taskloom.core.testing import TaskConformance

    class TestMyTask(TaskConformance):
        @pytest.fixture(scope="class")
        @classmethod
        def task(cls):
            return MyTask()

        @pytest.fixture(scope="class")
        @classmethod
        def predictor(cls, task):
            return ...

pytest is imported here alone: a program never imports this package.
"""

from __future__ import annotations

from taskloom.core.testing.conformance import EDGE_TEXTS, WRONG_VALUES, TaskConformance, assert_close

__all__ = ["EDGE_TEXTS", "WRONG_VALUES", "TaskConformance", "assert_close"]
