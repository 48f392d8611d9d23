"""`jukebox gpu-check`; in a bare checkout `python3 -m launch.cli gpu-check`, for which torch and numpy are enough (docs/gpu.md)."""

from launch.gpu_check.stand_in import fill_in

fill_in()
