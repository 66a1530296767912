"""Large arrays in blocks of rows: how many rows, and several blocks at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

Result = TypeVar("Result")

BLOCK_BYTES = 1 << 25
"""How large a block is: 32 MB, small beside a machine's memory and large beside its caches."""

_MOST_THREADS = 16


def ranges(total: int, row_bytes: int, most: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """First row of each block and the row behind its last.

    Args:
        total: number of rows.
        row_bytes: bytes of one row.
        most: bytes of one block; a block has one row at least.
    """
    size = max(1, most // max(row_bytes, 1))
    for begin in range(0, total, size):
        yield begin, min(begin + size, total)


def in_order(
    work: Callable[[int, int], Result], parts: Iterator[tuple[int, int]]
) -> Iterator[Result]:
    """Call ``work(begin, end)`` for every block, several at a time, and yield results in order.

    There are as many threads as the linear algebra may use. It gets one within each block, so
    that the same sums are made in the same order on every number of threads, and a result has
    the same bits. No more blocks are in work than there are threads.

    Args:
        work: computes one block; numpy does most of it, so that threads do not wait.
        parts: first row of each block and the row behind its last, from :func:`ranges`.
    """
    threads = min(
        _MOST_THREADS, max((_threads(library) for library in threadpool_info()), default=1)
    )
    waiting: deque[Future[Result]] = deque()
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for begin, end in parts:
            if len(waiting) == threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, begin, end))
        while waiting:
            yield waiting.popleft().result()


def _threads(library: dict[str, Any]) -> int:
    return int(library["num_threads"]) if library["user_api"] == "blas" else 1
