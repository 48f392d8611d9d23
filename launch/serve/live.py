"""Live sessions: music without end for one client, at the pace at which it is played.

A session is a job of the queue, so nothing else is generated meanwhile. The thread of the queue generates a block when there is
little left of the last one; the client gets pieces, a few seconds ahead of its player, so that a control acts soon. A session ends
after its length, when it is cancelled, or when no client has fetched anything for a while: it is gone.
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

READY = 1.0  # seconds of audio below which the next block is generated
AHEAD = 3.0  # seconds that a client is sent before it can have played them
PIECE = 0.25  # seconds that are sent at once
PATIENCE = 30.0  # seconds without a client after which a session ends: enough to load a page again
TICK = 0.05  # seconds between two looks
LONGEST = 0x7FFFFF00  # bytes of audio that the header of a stream promises; a player stops where it ends
KEPT = 20  # changes that a session shows


class LiveSession:
    """The audio of a session, between the thread that generates it and the client that plays it."""

    def __init__(self, controls: LiveControls, channels: int, sample_rate: int) -> None:
        self.controls, self.channels, self.sample_rate = controls, channels, sample_rate
        self.changed: list[dict[str, Any]] = []  # name, value, and the second from which on it acts
        self.generated = self.fetched = 0  # samples
        self.over, self.last, self.client = False, time.monotonic(), object()
        self._ready, self._lock = bytearray(), threading.Lock()

    # ---- the thread of the queue

    def changes(self, second: float) -> Mapping[str, Any]:
        """What the next patch takes from the controls; noted with its second."""
        taken = self.controls.changes(second)
        self.changed = [*self.changed, *({"name": k, "value": v, "second": second} for k, v in taken.items())][-KEPT:]
        return taken

    def generate(self, blocks: Iterable[Audio], made: Progress, callbacks: Callbacks) -> None:
        """Take in blocks as they are fetched, until the last one or until the client is gone; `made` has the samples in all."""
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
        """Wait until no more than so many seconds are ready; false where the client is gone, Cancelled where the job is."""
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
        """The next piece; empty where none is ready."""
        with self._lock:
            size = 2 * self.channels * round(PIECE * self.sample_rate)
            piece = bytes(self._ready[:size])
            del self._ready[:size]
            self.fetched += len(piece) // (2 * self.channels)
        if piece:
            self.last = time.monotonic()
        return piece

    async def sound(self, active: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The session as a wav without end, at the pace of a player; another client that comes takes its place.

        `active` returns whether its job is not over.
        """
        mine = self.client = object()
        began = sent = 0.0
        yield header(LONGEST // (2 * self.channels), self.channels, self.sample_rate)
        while self.client is mine:
            if piece := self.take():
                began = max(began, time.monotonic() - sent)  # after a stall it is sent no further ahead than before
                yield piece
                sent += len(piece) / (2 * self.channels * self.sample_rate)
                await asyncio.sleep(max(0.0, sent - AHEAD - (time.monotonic() - began)))
            elif self.over or not active():
                return
            else:
                await asyncio.sleep(TICK)

    def state(self) -> dict[str, Any]:
        """What a page needs to show a session, also after it was loaded again."""
        rate = self.sample_rate
        return {
            "sample_rate": rate, "channels": self.channels, "values": self.controls.values, "changes": self.changed,
            "generated": self.generated / rate, "fetched": self.fetched / rate, "over": self.over,
        }  # fmt: skip
