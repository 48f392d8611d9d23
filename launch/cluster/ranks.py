"""Rank of this process and number of ranks, from the environment variables of the starter, without other packages.

                      rank                   of                      on this machine             first machine
    torchrun          RANK                   WORLD_SIZE              LOCAL_RANK                  MASTER_ADDR, MASTER_PORT
    Open MPI          OMPI_COMM_WORLD_RANK   OMPI_COMM_WORLD_SIZE    OMPI_COMM_WORLD_LOCAL_RANK
    MPICH, Intel      PMI_RANK               PMI_SIZE                MPI_LOCALRANKID
    SLURM (srun)      SLURM_PROCID           SLURM_STEP_NUM_TASKS    SLURM_LOCALID               SLURM_STEP_NODELIST

SLURM_NTASKS is not used, because SLURM also sets it in a batch script with a single process. MPI has no variable with the host
of the first rank. So either MASTER_ADDR is set, or all ranks are on one machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from data_prep.errors import UserError

NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)
PORT = 29500  # default port
COLLECTIVE_TIMEOUT = 1800.0  # seconds that ranks wait in a collective; long, because the first rank may decode a corpus before


def variables(environ: Mapping[str, str] = os.environ) -> str:
    """Return the names of the two variables with rank and number of ranks, as text for messages; empty if they are not set."""
    return next((f"{mine} and {ranks}" for mine, ranks, _, _ in NAMES if mine in environ and ranks in environ), "")


def whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return the whole number in the variable `name`, or `default` if it is not set or empty; UserError for other values."""
    text = environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"the variable {name} is {text!r}; expected a whole number: set it, or unset it")
    return int(text)


def rank_and_ranks(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the rank of this process and the number of ranks; (0, 1) for a single process.

    Raises UserError for invalid values.
    """
    for mine, all_of_them, _, _ in NAMES:
        if mine in environ and all_of_them in environ:
            try:
                rank, ranks = int(environ[mine]), int(environ[all_of_them])
            except ValueError:
                rank, ranks = -1, 0
            if not 0 <= rank < ranks:
                raise UserError(
                    f"{mine} {environ[mine]!r} of {all_of_them} {environ[all_of_them]!r}; expected a number below the other: start the "
                    "processes with torchrun, mpirun or srun, or unset both"
                )
            return rank, ranks
    return 0, 1


def local_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Return the local rank of this process (its number on this host), which is the index of its GPU."""
    for mine, all_of_them, here, _ in NAMES:
        if mine in environ and all_of_them in environ:
            return whole_number(environ, here, rank_and_ranks(environ)[0])
    return 0


def meeting_point(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return address and port at which the first rank waits for the others.

    Raises UserError if there are several machines and the first machine is unknown.
    """
    port = whole_number(environ, "MASTER_PORT", PORT)
    if environ.get("MASTER_ADDR"):
        return environ["MASTER_ADDR"], port
    if "SLURM_PROCID" in environ and (nodes := environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST")):
        job = whole_number(environ, "SLURM_JOB_ID", 0)  # jobs on one machine use different ports
        return first_host(nodes), port if "MASTER_PORT" in environ else 20_000 + job % 10_000
    _, ranks = rank_and_ranks(environ)
    for mine, all_of_them, _, here in NAMES:
        if mine in environ and all_of_them in environ and whole_number(environ, here, ranks) < ranks:
            raise UserError(
                f"{ranks} processes on several machines, and no address at which they meet: set MASTER_ADDR to the name of the "
                f"first machine (mpirun -x MASTER_ADDR=.. or -genv MASTER_ADDR ..), or start them with `jukebox launch`"
            )
    return "127.0.0.1", port


def first_host(nodes: str) -> str:
    """Return the first name in a SLURM list of nodes: gpu07 for gpu[07-09,12],login."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    if found is None:
        raise UserError(f"SLURM's list of nodes is {nodes!r}; expected names such as gpu[07-09]: set MASTER_ADDR yourself")
    return found[1] + (found[2] or "")
