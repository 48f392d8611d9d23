"""Routes: lists of priors that lead from a song's conditions to a stream that a codec decodes.

    jukebox    vq.2 <- prior_2, vq.1 <- prior_1, vq.0 <- prior_0     autoregressive
    masked     vq.2 <- prior_2, vq.1 <- masked,  vq.0 <- masked      masked parallel decoding of the finer streams

    spectral   tokens <- tokens                                      frames of several codes, of a second codec
    wavenet_codes    vq.2 <- prior_2, mulaw <- wavenet_codes         samples, from codes of another codec
    musika     spectral.2 <- gan                                     latents of any length

config.json stores the routes of a model. If a model has no stored routes, its routes are derived from its priors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from priors.spec import PriorConfig
from vqvae.streams import Stream


@dataclass(frozen=True)
class Route:
    """A named route; `priors` maps each stream to the name of its prior, in the order of sampling (coarsest first)."""

    name: str
    priors: Mapping[str, str]


Routes = dict[str, Route]  # name -> route; the default route is first


def derive_routes(codecs: Sequence[Sequence[Stream]], priors: Mapping[str, PriorConfig]) -> Routes:
    """Return the routes that the priors of a model form; the routes of the last codec come first.

    `codecs` has the streams of each codec, finest first. A route is named after the route name of its last prior
    (`PriorConfig.route`). If the route name is empty, a route of the first codec is named after the kind of the prior, and a
    route of a further codec after the prior itself. So two codecs may have priors of one kind, in any order of training.
    """
    found: list[Routes] = []
    for streams in codecs:
        taken = {name for routes in found for name in routes}
        routes = _routes_of(streams, priors, taken, further=bool(found))
        found.append({name: Route(name, {**_above(route, codecs, priors), **route.priors}) for name, route in routes.items()})
    return {name: route for routes in reversed(found) for name, route in routes.items()}


def _above(route: Route, codecs: Sequence[Sequence[Stream]], priors: Mapping[str, PriorConfig]) -> dict[str, str]:
    """Return the priors of the streams of other codecs that a route reads, and of all coarser streams of these codecs.

    A stream without a prior gets the name `prior_<level>`.
    """
    levels = [stream.name for streams in codecs for stream in streams]
    reads = {read for name in route.priors.values() if name in priors for read in priors[name].spec.reads}
    chain: dict[str, str] = {}
    for names in ([stream.name for stream in streams] for streams in codecs):
        if not set(names) & set(route.priors) and (read := [name for name in names if name in reads]):
            chosen = names[names.index(read[0]) :]
            chain |= {name: _only_writer(name, priors) or f"prior_{levels.index(name)}" for name in reversed(chosen)}
    return chain


def _routes_of(
    streams: Sequence[Stream], priors: Mapping[str, PriorConfig], taken: Collection[str] = (), further: bool = False
) -> Routes:
    """Return the routes to the streams of one codec, under names that are not `taken`.

    `further` means that the codec is not the model's first codec. Priors that write a single stream form one route, with the
    first such prior of each stream. A prior of this route that reads no stream and has another route name than the previous
    prior begins another route. The route of the finest stream comes first. Every further prior of a single stream has a route
    in which that prior replaces the first prior. Each prior of several streams has a separate route. If
    another prior writes only the coarsest of these streams, that prior writes the coarsest stream in the route.
    """
    names = [stream.name for stream in reversed(streams)]
    single = {name: prior for name in names if (prior := _only_writer(name, priors))}
    routes: Routes = {}

    def add(prior: str, chain: Mapping[str, str]) -> None:
        config = priors[prior]
        name = config.route or (prior if further else config.kind)
        name = prior if name in routes or name in taken else name
        routes[name] = Route(name, chain)

    chains: list[dict[str, str]] = []
    for stream, prior in single.items():
        named = [priors[each].route for each in (prior, *chains[-1].values())] if chains else []
        if not chains or (not priors[prior].spec.reads and named[0] and named[-1] and named[0] != named[-1]):
            chains.append({})
        chains[-1][stream] = prior
    for chain in reversed(chains):
        add(list(chain.values())[-1], chain)
    for name, config in priors.items():
        first, *finer = [stream for stream in names if stream in config.spec.writes] or [""]
        if finer:
            add(name, {first: single.get(first, name), **dict.fromkeys(finer, name)})
        elif first and name not in single.values():
            add(name, next(chain for chain in chains if first in chain) | {first: name})
    return routes


def assumed_routes(codecs: Sequence[Sequence[Stream]], priors: Mapping[str, PriorConfig]) -> Routes:
    """Return the routes of a model that stores no routes: the derived routes, and the route `jukebox` of the first codec.

    In the route `jukebox` a stream without a trained prior has the prior name `prior_<level>`. A model that has priors, but no
    prior with a name `prior_<level>`, has only the derived routes.
    """
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
    """Name of a prior that writes only this stream, preferably one with prompt "prefix"; empty if the model has none."""
    found = [name for name, config in priors.items() if config.spec.writes == (stream,)]
    return next((name for name in found if priors[name].spec.prompt == "prefix"), found[0] if found else "")
