"""The group of processes that train together: initialisation, collectives and shutdown.

A single process communicates with no other. Ranks are read from the environment (`launch/cluster/ranks.py`). NCCL transfers
tensors on a GPU, and gloo transfers tensors on a CPU.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.errors import UserError
from jukebox.device import choose_own_device
from launch.cluster.ranks import COLLECTIVE_TIMEOUT, NAMES, local_rank, meeting_point, rank_and_ranks, variables

T = TypeVar("T")
PATIENCE = timedelta(seconds=COLLECTIVE_TIMEOUT)
MEETING = 45.0  # seconds within which another rank must connect: the variables of a shell may be left over from another job


def join(device: str) -> str:
    """Join the process group if there are several ranks. Return the device of this rank, and make it the current device.

    Raises UserError for a missing GPU, and for a single GPU that all ranks would share.
    """
    rank, ranks = rank_and_ranks()
    device = choose_own_device(device, local_rank(), ranks)
    if ranks > 1 or device.startswith("cuda"):
        use_device(torch.device(device))
    if ranks > 1 and not dist.is_initialized():
        meet(rank, ranks, "cuda:nccl,cpu:gloo" if device.startswith("cuda") else "gloo")
    return device


def use_device(device: torch.device) -> None:
    """Make a GPU the current device, and set the local rank in the environment to its index, for all starters in use.

    DeepSpeed uses the local rank as the index of the GPU, and requires that the variables of two starters agree. Local rank and
    index can differ: a starter may show only one GPU to each rank, or the user may name a GPU.
    """
    index = local_rank()
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_device(index)
    os.environ["LOCAL_RANK"] = str(index)
    for _, _, name, _ in NAMES:
        if name in os.environ:
            os.environ[name] = str(index)


def meet(rank: int, ranks: int, backend: str) -> None:
    """Open the process group; UserError if the ranks cannot connect."""
    (address, port), named = meeting_point(), variables()
    # DeepSpeed also reads these variables; without them DeepSpeed would use MPI
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR=address, MASTER_PORT=str(port))
    try:
        store = None if dist.is_torchelastic_launched() else open_store(address, port, rank, ranks, named)
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    except (dist.DistError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"rank {rank} of {ranks} ({named}) did not meet the others at {address}:{port} ({reason}); is the port free and the "
            "machine's name known to all? MASTER_ADDR and MASTER_PORT name another place; to train in one process unset the two variables"
        ) from error


def open_store(address: str, port: int, rank: int, ranks: int, named: str) -> dist.Store:
    """Open the key-value store of the ranks, and wait for a connection of another rank.

    Raises UserError if no rank connects, and DistError if the port is in use.
    """
    nobody = UserError(
        f"{named} state that this is rank {rank} of {ranks}, and no other rank connected to {address}:{port} within "
        f"{MEETING:.0f} s; "
        "unset both to train in one process, or start all ranks with `jukebox launch`, torchrun, mpirun or srun"
    )
    until = time.monotonic() + MEETING
    while rank and not accepts_connections(address, port):  # checked first, because a store prints each failed try
        if time.monotonic() > until:
            raise nobody
        time.sleep(0.1)
    make = partial(dist.TCPStore, address, port, ranks, rank == 0, timedelta(seconds=MEETING), wait_for_workers=False)
    store = done_in_time(make, until - time.monotonic())
    here = store.add("ranks", 1)
    while here < 2:
        if time.monotonic() > until:
            raise nobody
        time.sleep(0.1)
        here = store.add("ranks", 0)
    store.set_timeout(PATIENCE)
    return store


def done_in_time(work: Callable[[], T], seconds: float) -> T:
    """Run `work()` without its stderr, and return the result; RuntimeError if it takes longer than `seconds`.

    If another program has the port, torch would wait forever for an answer, or print its stack for an unexpected answer.
    """
    made: list[T | BaseException] = []

    def run() -> None:
        try:
            made.append(work())
        except Exception as error:
            made.append(error)

    thread, kept, nowhere = threading.Thread(target=run, daemon=True), os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        thread.start()
        thread.join(seconds)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    if not made:
        raise RuntimeError(f"the process at that address is not a rank of this training: no answer within {MEETING:.0f} s")
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


def accepts_connections(address: str, port: int) -> bool:
    """Whether a process accepts connections at `address` and `port`."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def part() -> None:
    """Wait for all ranks and close the process group, so that a finished rank is not considered dead."""
    if alone():
        return
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()


def alone() -> bool:
    return not (dist.is_available() and dist.is_initialized())


def who() -> tuple[int, int]:
    """Return this rank and the number of ranks; (0, 1) for a single process."""
    return (0, 1) if alone() else (dist.get_rank(), dist.get_world_size())


def print_once(what: object) -> None:
    """Print `what` on rank 0 only."""
    if who()[0] == 0:
        print(what, flush=True)  # flushed, so that the line precedes later output also in a pipe


def first(work: Callable[[], T]) -> T:
    """Run `work()` on rank 0; all ranks return its result or raise its UserError."""
    if alone():
        return work()
    made: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            made = [work(), None]
        except UserError as error:
            made = [None, str(error)]
    dist.broadcast_object_list(made, src=0, device=torch.device("cpu"))
    if made[1] is not None:
        raise UserError(made[1])
    return made[0]


def largest(*values: float) -> list[float]:
    """Return the maximum of each value over all ranks. All ranks get the same result."""
    if alone():
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared.tolist()


def total(values: Tensor) -> Tensor:
    """Return the sum of `values` over all ranks, in float64 on the CPU."""
    values = values.detach().double().cpu()
    if not alone():
        dist.all_reduce(values)
    return values


def mean(values: Tensor) -> Tensor:
    """Return the mean of `values` over all ranks, in float64 on the CPU."""
    return total(values) / who()[1]
