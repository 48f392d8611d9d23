"""`jukebox gpu-check`, see docs/gpu.md.

In a checkout without an installation, `python3 -m launch.cli gpu-check` needs only torch and numpy.
"""

from launch.gpu_check.stand_in import fill_in

fill_in()
