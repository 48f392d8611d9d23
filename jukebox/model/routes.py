"""Routes: which prior writes each stream on the way from a song's conditions to a stream that a codec decodes.

    jukebox    vq.2 <- prior_2, vq.1 <- prior_1, vq.0 <- prior_0     autoregressive
    masked     vq.2 <- prior_2, vq.1 <- masked,  vq.0 <- masked      masked parallel decoding of the finer streams

A model's routes are stored in its config.json. A model that stores none has those that follow from its priors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from priors.spec import PriorConfig
from vqvae.streams import Stream


@dataclass(frozen=True)
class Route:
    """`priors`: stream -> name of the prior that writes it, in the order of sampling (coarsest first)."""

    name: str
    priors: Mapping[str, str]


Routes = dict[str, Route]  # by name, the default first


def derive_routes(codecs: Sequence[Sequence[Stream]], priors: Mapping[str, PriorConfig]) -> Routes:
    """The routes of a model with codecs of these streams (finest first) and with these priors; those of the last codec come first."""
    return {name: route for streams in reversed(codecs) for name, route in _routes_of(streams, priors).items()}


def _routes_of(streams: Sequence[Stream], priors: Mapping[str, PriorConfig]) -> Routes:
    """The routes to the streams of one codec.

    One goes through all priors that write a single stream, the first of each stream; every further prior of such a stream has a route
    in which it takes that one's place. Each prior that writes several streams has one of its own, in which the coarsest of them is
    left to a prior of that stream alone, where there is one.
    """
    names = [stream.name for stream in reversed(streams)]
    single = {name: prior for name in names if (prior := _only_writer(name, priors))}
    chains = {_route_name(priors[list(single.values())[-1]]): single} if single else {}
    for name, config in priors.items():
        first, *finer = [stream for stream in names if stream in config.spec.writes] or [""]
        if finer:
            chains[_route_name(config)] = {first: single.get(first, name), **dict.fromkeys(finer, name)}
        elif first and name not in single.values():
            chains[_route_name(config) if _route_name(config) not in chains else name] = single | {first: name}
    return {name: Route(name, chain) for name, chain in chains.items()}


def assumed_routes(codecs: Sequence[Sequence[Stream]], priors: Mapping[str, PriorConfig]) -> Routes:
    """The routes of a model that stores none: as derived, streams of the first codec having a prior `prior_<level>`, trained or not."""
    routes, streams = derive_routes(codecs, priors), codecs[0]
    own = {name: f"prior_{level}" for level, name in enumerate(s.name for s in streams)}
    if priors and not set(own.values()) & set(priors):
        return routes
    chain = {name: _only_writer(name, priors) or own[name] for name in reversed(own)}
    first = {"jukebox": Route("jukebox", chain)}
    return (
        (routes | first) if len(codecs) > 1 else (first | {name: route for name, route in routes.items() if name != "jukebox"})
    )


def _only_writer(stream: str, priors: Mapping[str, PriorConfig]) -> str:
    """The prior that writes a stream and no other; empty where there is none."""
    return next((name for name, config in priors.items() if config.spec.writes == (stream,)), "")


def _route_name(config: PriorConfig) -> str:
    return config.route or config.kind
