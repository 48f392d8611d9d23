"""Which of several processes this one is, from what its starter has put into the environment; nothing has to be installed for it.

    torchrun          RANK                       WORLD_SIZE
    Open MPI          OMPI_COMM_WORLD_RANK       OMPI_COMM_WORLD_SIZE
    MPICH, Intel      PMI_RANK                   PMI_SIZE
    SLURM (srun)      SLURM_PROCID               SLURM_STEP_NUM_TASKS

SLURM_NTASKS is there in a batch script too, where one process runs alone, so it does not count.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from data_prep.errors import UserError

NAMES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def rank_and_ranks(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where it runs alone."""
    for mine, all_of_them in NAMES:
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
