"""One piece of work that several tasks wait for."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """A task with several waiters: its result or its failure goes to all of them.

    A waiter that is cancelled leaves the others alone; with the last one the work is cancelled too.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        self._waiters = 0

    @property
    def open(self) -> bool:
        """Whether somebody may still join: the work is under way, in this event loop, and not being cancelled."""
        task = self._task
        return not task.done() and not task.cancelling() and task.get_loop() is asyncio.get_running_loop()

    async def result(self) -> T:
        """Wait for the work and return what it returns."""
        self._waiters += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiters -= 1
            if not self._waiters and not self._task.done():
                self._task.cancel()
