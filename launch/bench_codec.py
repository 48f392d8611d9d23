"""How fast the codec is, beside transformers' port of the published one: `jukebox bench codec`.

Both sides run the published configuration in float32 with the same random weights, which come from the peer by way of
the importer, on the same noise. Each case has a process a side, so that its peak memory is its own; the two are asked in
turn and compared pair by pair, so that what else the machine does falls on both. Codes must be equal but for ties.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from vqvae.vqvae import VQVAE

CASES = (("encode", None), ("decode", 0), ("decode", 1), ("decode", 2))


def bench_codec(peer: str, seconds: float, repeats: int, threads: int, out: str) -> list[dict[str, Any]]:
    """Rows of the table, printed as they come; the peer is left out where its python is not named."""
    import numpy as np
    import torch

    from jukebox.openai import VQVAES, vqvae_config

    if peer and not Path(peer).exists():
        raise UserError(
            f"--peer got {peer!r}, expected the python of an environment with transformers 4.46 (make bench)"
        )
    config = vqvae_config(VQVAES["vqvae"])
    samples = int(seconds * config.sample_rate) // config.hops[-1] * config.hops[-1]
    if samples < 2**15 or repeats < 1:
        raise UserError(f"--seconds {seconds:g} and --repeats {repeats}: expected at least 1 second and 1 repeat")
    threads = threads or torch.get_num_threads()
    print(f"published codec, float32, {samples / config.sample_rate:.1f} s of noise, {threads} threads, {repeats} repeats; "
          f"load average before {os.getloadavg()[0]:.2f}")  # fmt: skip
    print(
        f"{'case':<10}{'s a s':>8}{'CPU s':>8}{'MB':>7}"
        + f"{'peer s a s':>12}{'CPU s':>8}{'MB':>7}{'ratio':>8}" * bool(peer)
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        job: dict[str, Any] = {"audio": f"{folder}/audio.npy", "codes": [], "threads": threads}
        np.save(job["audio"], np.random.default_rng(0).normal(0, 0.2, (1, 1, samples)).astype(np.float32))
        job |= _make_weights(Path(folder), job, peer)
        for case, level in CASES:
            this = {**job, "case": case, "level": level or 0}
            row = {
                "case": case if level is None else f"{case} {level}",
                "seconds": samples / config.sample_rate,
                "threads": threads,
            }
            row |= _measure(this, Path(folder), peer, repeats)
            if case == "encode":  # the codes that are decoded after
                made = np.load(f"{folder}/ours.npz")
                for i in range(config.levels):
                    np.save(f"{folder}/codes_{i}.npy", made[f"arr_{i}"])
                    job["codes"].append(f"{folder}/codes_{i}.npy")
            rows.append(row)
            _print_row(row)
    if out:
        Path(out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def _print_row(row: dict[str, Any]) -> None:
    line = f"{row['case']:<10}{row['rate']:>8.2f}{row['cpu']:>8.2f}{row['peak_mb']:>7.0f}"
    if "ratio" in row:
        line += f"{row['peer_rate']:>12.2f}{row['peer_cpu']:>8.2f}{row['peer_peak_mb']:>7.0f}{row['ratio']:>8.2f}"
    print(line)
    print("          where the time goes: " + ", ".join(f"{k} {v:.0%}" for k, v in row["shares"].items()))
    if "agreement" in row:
        print(
            f"          {row['agreement']}; memory {row['peak_mb'] / row['peer_peak_mb']:.2f} of the peer's", flush=True
        )


def _make_weights(folder: Path, job: dict[str, Any], peer: str) -> dict[str, str]:
    """Files with the weights of both sides: the peer's own, and ours, which the importer made of them."""
    import torch
    from safetensors.torch import save_file

    from jukebox.openai import VQVAES, published_from_port, vqvae_config, vqvae_state
    from jukebox.torchfile import open_checkpoint, state_dict
    from vqvae.vqvae import VQVAE

    config, theirs, published = vqvae_config(VQVAES["vqvae"]), folder / "peer.pt", folder / "published.pt"
    if peer:
        _run_peer(peer, {**job, "make": str(theirs)})
        port = torch.load(theirs, weights_only=True)
        torch.save({"model": {published_from_port(n, config.downs_t): t for n, t in port.items()}}, published)
        state = vqvae_state(state_dict(open_checkpoint(published)), config)
    else:
        torch.manual_seed(0)
        state = VQVAE(config).state_dict()
    save_file(state, folder / "ours.safetensors")
    return {"weights": str(theirs), "ours": str(folder / "ours.safetensors")}


def _run_peer(peer: str, job: dict[str, Any]) -> None:
    script = Path(__file__).with_name("bench_codec_peer.py")
    result = subprocess.run([peer, script, json.dumps(job)], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"the peer in {peer} failed: {last}; rebuild it with make distclean bench, or leave --peer away"
        )


class _Side:
    """One of the two processes: does its case when asked."""

    def __init__(self, command: Sequence[str | Path], job: dict[str, Any]) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [*command, json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.answer()  # that it is ready

    def answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise UserError("a process of the bench ended early; its own message is above")
        return line

    def run(self) -> tuple[float, float]:
        """Wall and CPU seconds of one run."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        wall, cpu = json.loads(self.answer())
        return wall, cpu

    def close(self) -> dict[str, Any]:
        """What it has to say at its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        report = json.loads(self.answer())
        self.process.wait()
        return report


def _measure(job: dict[str, Any], folder: Path, peer: str, repeats: int) -> dict[str, Any]:
    """Medians of both sides for one case, and how far their results are apart."""
    sides = {"ours": _Side([sys.executable, "-m", "launch.bench_codec"], {**job, "out": f"{folder}/ours.npz"})}
    if peer:
        script = Path(__file__).with_name("bench_codec_peer.py")
        sides["peer"] = _Side([peer, script], {**job, "out": f"{folder}/peer.npz"})
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats + 1):  # the first of each warms up
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            times[name].append(sides[name].run())
    reports = {name: side.close() for name, side in sides.items()}
    seconds = _seconds_of(job)
    row: dict[str, Any] = {"walls": [wall for wall, _ in times["ours"][1:]]}
    row["rate"] = seconds / statistics.median(row["walls"])
    row["cpu"] = statistics.median(cpu for _, cpu in times["ours"][1:])
    row |= reports["ours"]
    if peer:
        walls = [wall for wall, _ in times["peer"][1:]]
        row |= {"peer_walls": walls, "peer_rate": seconds / statistics.median(walls)}
        row["peer_cpu"] = statistics.median(cpu for _, cpu in times["peer"][1:])
        row["peer_peak_mb"] = reports["peer"]["peak_mb"]
        row["ratio"] = statistics.median(theirs / ours for ours, theirs in zip(row["walls"], walls))
        row |= _compare(job, folder)
    return row


def _seconds_of(job: dict[str, Any]) -> float:
    import numpy as np

    return np.load(job["audio"], mmap_mode="r").shape[-1] / 44100


def _compare(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """How far the last results of the two sides are apart, in a sentence and in numbers."""
    import numpy as np

    ours, theirs = (np.load(folder / f"{name}.npz") for name in ("ours", "peer"))
    if job["case"] == "decode":
        apart = float(np.abs(ours["arr_0"] - theirs["arr_0"]).max())
        return {"apart": apart, "agreement": f"sound equal within {apart:.1e}"}
    codec, audio = _codec(job), np.load(job["audio"])
    total = differ = 0
    gap = 0.0
    for level in range(len(codec.spec.hops)):
        mine, other = (made[f"arr_{level}"][0] for made in (ours, theirs))
        where = np.flatnonzero(mine != other)
        total, differ = total + len(mine), differ + len(where)
        gap = max(gap, _largest_gap(codec, audio, level, mine, other, where)) if len(where) else gap
    agreement = f"{total} codes equal"
    if differ:
        agreement = f"{differ} of {total} codes differ, all between two whose distances agree within {gap:.1e}"
    return {"codes": total, "codes_that_differ": differ, "largest_gap": gap, "agreement": agreement}


def _largest_gap(
    codec: VQVAE, audio: np.ndarray, level: int, mine: np.ndarray, other: np.ndarray, where: np.ndarray
) -> float:
    """How much farther one of two codes is than the other at most, relative to |x|^2 + |k|^2, of which they are sums."""
    import torch

    autoencoder = codec.level(level)
    with torch.no_grad():
        x = autoencoder.encoder(torch.from_numpy(audio))[0].T[where].double()
    one, two = (autoencoder.codebook.k[torch.from_numpy(codes[where])].double() for codes in (mine, other))
    size = x.square().sum(1) + one.square().sum(1)
    return (((x - one).square().sum(1) - (x - two).square().sum(1)).abs() / size).max().item()


def _codec(job: dict[str, Any]) -> VQVAE:
    from safetensors.torch import load_file

    from jukebox.openai import VQVAES, vqvae_config
    from vqvae.vqvae import VQVAE

    levels = None if job["case"] == "encode" else [job["level"]]
    codec = VQVAE(vqvae_config(VQVAES["vqvae"]), levels)
    state = load_file(job["ours"])
    codec.load_state_dict({name: state[name] for name in codec.state_dict()})
    return codec.eval()


def main(job: dict[str, Any]) -> None:
    """Our side of one case: a run for every line on stdin, then a profile, the results and the peak memory."""
    import numpy as np
    import torch

    from vqvae.stream import decode_long, encode_long

    torch.set_num_threads(job["threads"])
    codec, audio, made = _codec(job), torch.from_numpy(np.load(job["audio"])), []
    codes = torch.from_numpy(np.load(job["codes"][job["level"]])) if job["codes"] else None

    def run() -> list[torch.Tensor]:
        if codes is None:
            return list(encode_long(codec, audio, range(3)).values())
        return [decode_long(codec, codes, job["level"])]

    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        made = run()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    peak = peak_mb()
    np.savez(job["out"], *[each.numpy() for each in made])
    print(json.dumps({"peak_mb": peak, "shares": _shares(run)}), flush=True)


def peak_mb() -> float:
    """Most memory that this process has held; what getrusage says begins with that of the process it came from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise UserError("/proc/self/status names no VmHWM; the bench of memory needs Linux")


def _shares(run: Any) -> dict[str, float]:
    """Where one run's time goes, by the operation that torch's profiler saw at work, in one thread."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    shares = {"convolution": 0.0, "nearest code": 0.0, "moving and adding": 0.0}
    for event in profiled.key_averages():
        kind = "moving and adding"
        if "conv" in event.key or event.key in ("aten::addmm", "aten::addmm_"):
            kind = "convolution"
        elif event.key in ("aten::mm", "aten::min"):
            kind = "nearest code"
        shares[kind] += event.self_cpu_time_total
    whole = sum(shares.values()) or 1.0
    return {kind: value / whole for kind, value in shares.items()}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
