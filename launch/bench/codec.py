"""Speed of the codec, compared with transformers' port of the published codec: `jukebox bench codec`.

Both sides run the published configuration in float32 on the same noise. They have the same random weights, which the importer
converts from the peer. Each case has one process per side, so that the peak memory is separate. The two sides run alternately
and are compared in pairs, so that other load affects both. Their codes must be equal except for ties.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError
from launch.bench.alternate import Side, check_peer, in_turn, median_cpu, median_ratio, run_peer, serve, walls, write_rows

if TYPE_CHECKING:
    import numpy as np

    from vqvae.jukebox.vqvae import VQVAE

PEER = Path(__file__).parent / "peers" / "codec.py"
CASES = (("encode", None), ("decode", 0), ("decode", 1), ("decode", 2))


def bench_codec(peer: str, seconds: float, repeats: int, threads: int, out: str, device: str) -> list[dict[str, Any]]:
    """Return the rows of the table, printed during the measurement. The peer is skipped if its python is not given."""
    import numpy as np
    import torch

    from jukebox.model.settings import VQVAES, vqvae_config

    check_peer(peer, device)
    config = vqvae_config(VQVAES["vqvae"])
    samples = int(seconds * config.sample_rate) // config.hops[-1] * config.hops[-1]
    if samples < 2**15 or repeats < 1:
        raise UserError(f"--seconds {seconds:g} and --repeats {repeats}: expected at least 1 second and 1 repeat")
    threads = threads or torch.get_num_threads()
    print(f"published codec, float32, {samples / config.sample_rate:.1f} s of noise, {device}, {threads} threads, {repeats} repeats; "
          f"load average before {os.getloadavg()[0]:.2f}")  # fmt: skip
    print(
        f"{'case':<10}{'s a s':>8}{'CPU s':>8}{'MB':>7}" + f"{'peer s a s':>12}{'CPU s':>8}{'MB':>7}{'ratio':>8}" * bool(peer)
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        job: dict[str, Any] = {"audio": f"{folder}/audio.npy", "codes": [], "threads": threads, "device": device}
        np.save(job["audio"], np.random.default_rng(0).normal(0, 0.2, (1, 1, samples)).astype(np.float32))
        job |= _make_weights(Path(folder), job, peer)
        for case, level in CASES:
            name, seconds = case if level is None else f"{case} {level}", samples / config.sample_rate
            row = {"case": name, "seconds": seconds, "threads": threads}
            row |= _measure({**job, "case": case, "level": level or 0}, seconds, Path(folder), peer, repeats)
            if case == "encode":  # the other cases decode these codes
                made = np.load(f"{folder}/ours.npz")
                for i in range(config.levels):
                    np.save(f"{folder}/codes_{i}.npy", made[f"arr_{i}"])
                    job["codes"].append(f"{folder}/codes_{i}.npy")
            rows.append(row)
            _print_row(row)
    return write_rows(rows, out)


def _print_row(row: dict[str, Any]) -> None:
    line = f"{row['case']:<10}{row['rate']:>8.2f}{row['cpu']:>8.2f}{row['peak_mb']:>7.0f}"
    if "ratio" in row:
        line += f"{row['peer_rate']:>12.2f}{row['peer_cpu']:>8.2f}{row['peer_peak_mb']:>7.0f}{row['ratio']:>8.2f}"
    print(line)
    if row["shares"]:
        print("          where the time goes: " + ", ".join(f"{k} {v:.0%}" for k, v in row["shares"].items()))
    if "agreement" in row:
        print(f"          {row['agreement']}; memory {row['peak_mb'] / row['peer_peak_mb']:.2f} of the peer's", flush=True)


def _make_weights(folder: Path, job: dict[str, Any], peer: str) -> dict[str, str]:
    """Write files with the weights of both sides: those of the peer, and ours, converted by the importer."""
    import torch
    from safetensors.torch import save_file

    from jukebox.importers.hf_port import published_codec_name
    from jukebox.importers.torchfile import open_checkpoint, state_dict
    from jukebox.importers.vqvae_keys import vqvae_state
    from jukebox.model.settings import VQVAES, vqvae_config
    from vqvae.jukebox.vqvae import VQVAE

    config, theirs, published = vqvae_config(VQVAES["vqvae"]), folder / "peer.pt", folder / "published.pt"
    if peer:
        run_peer(peer, PEER, {**job, "make": str(theirs)})
        port = torch.load(theirs, weights_only=True)
        torch.save({"model": {published_codec_name(n, config.downs_t): t for n, t in port.items()}}, published)
        state = vqvae_state(state_dict(open_checkpoint(published)), config)
    else:
        torch.manual_seed(0)
        state = VQVAE(config).state_dict()
    save_file(state, folder / "ours.safetensors")
    return {"weights": str(theirs), "ours": str(folder / "ours.safetensors")}


def _measure(job: dict[str, Any], seconds: float, folder: Path, peer: str, repeats: int) -> dict[str, Any]:
    """Return the medians of both sides for one case of `seconds` of audio, and the difference of their results."""
    sides = {"ours": Side([sys.executable, "-m", "launch.bench.codec"], {**job, "out": f"{folder}/ours.npz"})}
    if peer:
        sides["peer"] = Side([peer, PEER], {**job, "out": f"{folder}/peer.npz"})
    times = in_turn(sides, repeats)
    reports, ours = {name: side.close() for name, side in sides.items()}, times["ours"]
    row: dict[str, Any] = {"walls": walls(ours), "rate": seconds / statistics.median(walls(ours))}
    row |= {"cpu": median_cpu(ours), **reports["ours"]}
    if peer:
        theirs = times["peer"]
        row |= {"peer_walls": walls(theirs), "peer_rate": seconds / statistics.median(walls(theirs))}
        row |= {"peer_cpu": median_cpu(theirs), "peer_peak_mb": reports["peer"]["peak_mb"]}
        row["ratio"] = median_ratio(ours, theirs)
        row |= _compare(job, folder)
    return row


def _compare(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the difference of the last results of the two sides, as numbers and as a sentence."""
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


def _largest_gap(codec: VQVAE, audio: np.ndarray, level: int, mine: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Return the largest difference between the distances of two codes, relative to |x|^2 + |k|^2."""
    import torch

    autoencoder = codec.level(level)
    with torch.no_grad():
        x = autoencoder.encoder(torch.from_numpy(audio))[0].T[where].double()
    one, two = (autoencoder.codebook.k[torch.from_numpy(codes[where])].double() for codes in (mine, other))
    size = x.square().sum(1) + one.square().sum(1)
    return (((x - one).square().sum(1) - (x - two).square().sum(1)).abs() / size).max().item()


def _codec(job: dict[str, Any]) -> VQVAE:
    from safetensors.torch import load_file

    from jukebox.model.settings import VQVAES, vqvae_config
    from vqvae.jukebox.vqvae import VQVAE

    streams = None if job["case"] == "encode" else [f"vq.{job['level']}"]
    codec = VQVAE(vqvae_config(VQVAES["vqvae"]), streams)
    state = load_file(job["ours"])
    codec.load_state_dict({name: state[name] for name in codec.state_dict()})
    return codec.eval()


def main(job: dict[str, Any]) -> None:
    """Our side of one case: one run for each line on stdin, then a profile, the results and the peak memory."""
    import numpy as np
    import torch

    torch.set_num_threads(job["threads"])
    device = job["device"]
    codec, audio = _codec(job).to(device), torch.from_numpy(np.load(job["audio"])).to(device)
    codes = torch.from_numpy(np.load(job["codes"][job["level"]])).to(device) if job["codes"] else None
    made: list[torch.Tensor] = []

    def run(_: str = "") -> None:
        if codes is None:
            made[:] = codec.encode_long(audio, codec.spec.names).values()
        else:
            made[:] = [codec.decode_long(codes, f"vq.{job['level']}")]

    def report() -> dict[str, Any]:
        np.savez(job["out"], *[each.cpu().numpy() for each in made])
        return {"shares": _shares(run) if device == "cpu" else {}}

    serve(run, report)


def _shares(run: Any) -> dict[str, float]:
    """Return the share of each operation in the time of one run in one thread, from torch's profiler."""
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
