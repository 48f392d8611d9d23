"""Live sessions: music of unbounded length for one client, at the speed of its player.

A session is a job of the queue, so that nothing else is generated at the same time. The thread of the queue generates the next
block when little is left of the last one. The client gets the audio in small parts, a few seconds ahead of its player, so that
a changed control takes effect soon. A session ends after its length, when it is cancelled, or when no client has fetched audio
for some time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from data_prep.audio.audio import to_pcm
from jukebox.api import Callbacks, Cancelled, Progress
from jukebox.audio import Audio
from jukebox.sampling.wav_writer import header
from launch.live.live import LiveControls

READY = 1.0  # the next block is generated when fewer seconds of audio are left
AHEAD = 3.0  # seconds of audio that are sent ahead of the player
PIECE = 0.25  # seconds of audio per part that is sent
PATIENCE = 30.0  # a session ends after this many seconds without a client, enough to reload a page
TICK = 0.05  # seconds between two checks
LONGEST = 0x7FFFFF00  # bytes of audio that the header of a stream states; the player stops at the end of the stream
KEPT = 20  # number of changes that a session shows


class LiveSession:
    """The audio of a session, shared by the thread that generates it and the client that plays it."""

    def __init__(self, controls: LiveControls, channels: int, sample_rate: int) -> None:
        self.controls, self.channels, self.sample_rate = controls, channels, sample_rate
        self.changed: list[dict[str, Any]] = []  # name, value, and the second at which the change takes effect
        self.generated = self.fetched = 0  # samples
        self.over, self.last, self.client = False, time.monotonic(), object()
        self._ready, self._lock = bytearray(), threading.Lock()

    # ---- the thread of the queue

    def changes(self, second: float) -> Mapping[str, Any]:
        """Return the changed controls for the next patch, and record them with the second at which it begins."""
        taken = self.controls.changes(second)
        self.changed = [*self.changed, *({"name": k, "value": v, "second": second} for k, v in taken.items())][-KEPT:]
        return taken

    def generate(self, blocks: Iterable[Audio], made: Progress, callbacks: Callbacks) -> None:
        """Generate blocks as fast as they are fetched, until the last block, or until the client is gone.

        `made` has the total number of samples, for the progress.
        """
        self.last = time.monotonic()
        try:
            for block in blocks:
                with self._lock:
                    self._ready += to_pcm(block.samples, "the stream").T.tobytes()
                    self.generated += block.samples.shape[1]
                if not self._wait(READY, made, callbacks):
                    return
            self._wait(0.0, made, callbacks)
        finally:
            self.over = True

    def _wait(self, seconds: float, made: Progress, callbacks: Callbacks) -> bool:
        """Wait until at most `seconds` of audio are not fetched yet; return False if the client is gone.

        Raises Cancelled if the job is cancelled.
        """
        while True:
            if callbacks.progress:
                callbacks.progress(
                    Progress(made.level, made.stream, self.fetched // self.sample_rate * self.sample_rate, made.total)
                )
            if callbacks.cancel and callbacks.cancel():
                raise Cancelled("the session was cancelled")
            if self.generated - self.fetched <= seconds * self.sample_rate:
                return True
            if time.monotonic() - self.last > PATIENCE:
                return False
            time.sleep(TICK)

    # ---- the client

    def take(self) -> bytes:
        """Return the next part of the audio; empty if there is none yet."""
        with self._lock:
            size = 2 * self.channels * round(PIECE * self.sample_rate)
            piece = bytes(self._ready[:size])
            del self._ready[:size]
            self.fetched += len(piece) // (2 * self.channels)
        if piece:
            self.last = time.monotonic()
        return piece

    async def sound(self, active: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield the session as an unbounded wav at the speed of a player; a new client replaces the previous one.

        `active` returns whether the job of the session is not over yet.
        """
        mine = self.client = object()
        began = sent = 0.0
        yield header(LONGEST // (2 * self.channels), self.channels, self.sample_rate)
        while self.client is mine:
            if piece := self.take():
                began = max(began, time.monotonic() - sent)  # after a stall the lead is at most AHEAD again
                yield piece
                sent += len(piece) / (2 * self.channels * self.sample_rate)
                await asyncio.sleep(max(0.0, sent - AHEAD - (time.monotonic() - began)))
            elif self.over or not active():
                return
            else:
                await asyncio.sleep(TICK)

    def state(self) -> dict[str, Any]:
        """Return the data with which a page shows a session, also after a reload."""
        rate = self.sample_rate
        return {
            "sample_rate": rate, "channels": self.channels, "values": self.controls.values, "changes": self.changed,
            "generated": self.generated / rate, "fetched": self.fetched / rate, "over": self.over,
        }  # fmt: skip
