"""Adapters: nothing changes at first, only they learn, and the plain prior that they are merged into computes the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jukebox.model.presets import find
from priors.autoregressive.extend import with_labels
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import Conditions
from priors.prior import Batch
from priors.transformer.lora import LowRank, adapters, add_adapters, freeze, merged


def trained(name: str = "prior_2") -> AutoregressivePrior:
    torch.manual_seed(0)
    prior = AutoregressivePrior(find("test").priors[name].for_corpus(3, 3))
    for parameter in prior.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return prior


def conditioning(prior: AutoregressivePrior, artist: int) -> tuple[torch.Tensor, Conditions]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 32, (2, prior.config.n_ctx), generator=generator)
    above = torch.randint(0, 32, (2, prior.config.n_ctx // 4), generator=generator) if prior.config.above else None
    return codes, Conditions(artist=torch.tensor([artist, 1]), genres=torch.tensor([[artist], [2]]), above=above)


@torch.enable_grad()
def moved(prior: AutoregressivePrior) -> AutoregressivePrior:
    """The prior after some steps of training."""
    optimiser = torch.optim.SGD([p for p in prior.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        codes, cond = conditioning(prior, 3)
        optimiser.zero_grad()
        prior.loss(Batch({prior.stream: codes}, cond))["loss"].backward()
        optimiser.step()
    return prior


@pytest.mark.parametrize("name", ["prior_2", "prior_1"])
def test_adapters_change_nothing_at_first_and_merged_compute_what_they_learned(name):
    before = trained(name)
    prior = with_labels(before, 4, 4)
    freeze(prior, 3, 3)
    add_adapters(prior, 2)
    with torch.no_grad():
        same = [net(*conditioning(before, 1)) for net in (before, prior, merged(prior))]
        assert torch.allclose(same[1], same[0], atol=1e-5) and torch.equal(same[2], same[0])
        moved(prior)
        after = [net(*conditioning(before, 3)) for net in (prior, merged(prior))]
        assert torch.allclose(after[0], after[1], atol=1e-4)
        assert not torch.allclose(prior(*conditioning(before, 1)), same[0], atol=1e-2)  # LoRA reaches old songs too


def test_only_adapters_learn_and_their_numbers_are_few():
    prior = with_labels(trained(), 4, 4)
    whole = {name: p.detach().clone() for name, p in prior.state_dict().items()}
    freeze(prior, 3, 3)
    add_adapters(prior, 2)
    moved(prior)
    named = dict(adapters(prior))
    assert sum(isinstance(a, LowRank) for a in named.values()) == 4 * 2 + 1 + 4  # 2 blocks, a cross one; the encoder's one
    plain, kept = merged(prior).state_dict(), prior.state_dict()
    for name, value in whole.items():
        part, _, leaf = name.rpartition(".")
        if part not in named:
            assert torch.equal(kept[name], value), name
        elif leaf == "w":
            assert torch.linalg.matrix_rank(plain[name] - value, atol=1e-4) <= 2
    learned = sum(p.numel() for p in prior.parameters() if p.requires_grad)
    assert learned < sum(value.numel() for value in whole.values())


def test_with_labels_alone_old_names_keep_every_bit_and_a_new_one_moves():
    before = trained()
    prior = with_labels(before, 4, 4)
    freeze(prior, 3, 3)
    with torch.no_grad():
        old, unknown = before(*conditioning(before, 1)), before(*conditioning(before, 0))
        assert torch.equal(prior(*conditioning(prior, 3)), unknown)  # a new name begins as an unknown one
        plain = merged(moved(prior))
        assert torch.equal(plain(*conditioning(prior, 1)), old)
        assert not torch.allclose(plain(*conditioning(prior, 3))[0], unknown[0], atol=1e-2)


def test_tables_do_not_shrink_and_a_prior_without_labels_has_none_to_grow():
    prior = trained()
    with pytest.raises(ValueError, match="cannot shrink"):
        with_labels(prior, 2, 3)
    deaf = AutoregressivePrior(replace(prior.config, labels=None))
    with pytest.raises(ValueError, match="not conditioned on artists"):
        with_labels(deaf, 4, 4)
