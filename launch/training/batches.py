"""Prefetching of training batches by threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from launch.cluster.heartbeat import beat

if TYPE_CHECKING:
    from launch.engines.engine import Engine
    from launch.training.tasks.task import Task


def batches(task: Task, start: int, stop: int, engine: Engine, ahead: int = 2) -> Iterator[tuple[int, Any, float]]:
    """Yield (step, numbered parts of the batch for this rank, seconds waited) for start <= step < stop.

    Threads prefetch `ahead` steps. The concatenated parts of all ranks are the global batch, for any number of ranks and parts.
    """
    import torch

    mine = range(engine.rank * engine.accumulate, (engine.rank + 1) * engine.accumulate)
    on_gpu = engine.device.type == "cuda"

    def parts(step: int) -> list[Any]:
        made = [task.batch(step, number, engine.parts) for number in mine]
        return [part.pin_memory() if hasattr(part, "pin_memory") else part for part in made] if on_gpu else made

    # a new thread uses the first GPU, and pinning would create a CUDA context of every rank on this GPU
    begin = partial(torch.cuda.set_device, engine.device) if on_gpu else None
    with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="batches", initializer=begin) as pool:
        waiting = deque(pool.submit(parts, s) for s in range(start, min(start + ahead, stop)))
        try:
            for step in range(start, stop):
                beat("waiting for its batch", step)
                asked = time.perf_counter()
                made = waiting.popleft().result()
                waited = time.perf_counter() - asked
                if step + ahead < stop:
                    waiting.append(pool.submit(parts, step + ahead))
                yield step, list(zip(mine, task.share(made), strict=True)), waited
        finally:
            pool.shutdown(cancel_futures=True)
