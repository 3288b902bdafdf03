from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gapo_operator.watch.workqueue import WorkQueue


def run(story: Callable[[WorkQueue[str], list[str]], Awaitable[None]]) -> list[str]:
    """What was handled, in order, while the story was told."""
    handled: list[str] = []

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()

        async def handle(key: str) -> None:
            handled.append(key)

        working = asyncio.create_task(queue.run(handle))
        await story(queue, handled)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(main())
    return handled


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


def test_a_key_that_is_added_many_times_is_handled_once() -> None:
    async def story(queue: WorkQueue[str], handled: list[str]) -> None:
        for _ in range(5):
            queue.add("a")
        queue.add("b")
        await until(lambda: len(handled) == 2)

    assert run(story) == ["a", "b"]


def test_the_earliest_of_several_times_counts() -> None:
    async def story(queue: WorkQueue[str], handled: list[str]) -> None:
        queue.add("late", 3600)
        queue.add("late", 0.01)
        queue.add("late", 3600)
        await until(lambda: handled == ["late"])
        assert len(queue) == 0

    run(story)


def test_what_is_due_later_waits() -> None:
    async def story(queue: WorkQueue[str], handled: list[str]) -> None:
        queue.add("later", 0.05)
        queue.add("now")
        await until(lambda: len(handled) == 2)

    assert run(story) == ["now", "later"]


def test_a_key_that_is_added_while_it_is_handled_comes_again_and_never_twice_at_once() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        at_once, most, times = 0, 0, 0
        again = asyncio.Event()

        async def handle(key: str) -> None:
            nonlocal at_once, most, times
            at_once, times = at_once + 1, times + 1
            most = max(most, at_once)
            if times == 1:
                queue.add(key)
                await asyncio.sleep(0.02)
            else:
                again.set()
            at_once -= 1

        working = asyncio.create_task(queue.run(handle))
        queue.add("a")
        await asyncio.wait_for(again.wait(), 10)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert (times, most) == (2, 1)

    asyncio.run(main())


def test_one_that_takes_long_holds_up_no_other() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        release, done = asyncio.Event(), asyncio.Event()

        async def handle(key: str) -> None:
            await release.wait() if key == "slow" else done.set()

        working = asyncio.create_task(queue.run(handle))
        queue.add("slow")
        queue.add("quick", 0.01)
        await asyncio.wait_for(done.wait(), 10)
        release.set()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(main())
