"""Work in a thread for each core: in order, in steady memory, and cancelled when nobody asks for more."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hillstart.system.machine import parallel_map


def test_results_come_in_the_order_of_the_items_and_few_are_taken_in_advance() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield i

    for i, result in enumerate(parallel_map(lambda n: n * n, items(), ahead=8)):
        assert result == i * i and taken <= i + 9
    assert i == 99


def test_an_error_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled, shutdown = list[int](), threading.Event(), ThreadPoolExecutor.shutdown

    def cancel(pool: ThreadPoolExecutor, **how: bool) -> None:
        shutdown(pool, wait=False, **how)
        cancelled.set()
        shutdown(pool)

    def work(n: int) -> int:
        begun.append(n)
        if n == 0:
            raise ValueError("zero")
        cancelled.wait()
        return n

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", cancel)
    with pytest.raises(ValueError, match="zero"):
        next(parallel_map(work, range(1000), ahead=1000))
    assert len(begun) < 1000
