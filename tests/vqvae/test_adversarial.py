"""Losses of adversarial training against values computed by hand, and the balancer's invariances."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqvae.adversarial import Balancer, feature_matching, hinge_discriminator, hinge_generator, r1_penalty


def test_r1_of_a_linear_critic_is_half_the_square_of_its_weights():
    """D(x) = w x has the gradient w everywhere, so that R1 is |w|^2 / 2 and its derivative by w is w."""
    critic, inputs = nn.Linear(3, 1, bias=False), torch.randn(5, 3, requires_grad=True)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[1.0, -2.0, 2.0]]))
    penalty = r1_penalty(critic(inputs), inputs)
    assert penalty.item() == pytest.approx(4.5)
    penalty.backward()
    assert critic.weight.grad is not None and critic.weight.grad.tolist() == [[1.0, -2.0, 2.0]]


def test_r1_of_a_quadratic_critic_is_that_of_its_gradient_at_each_row():
    """D(x) = a x^2 has the gradient 2 a x: the mean of 2 a^2 x^2 over rows."""
    a, inputs = nn.Parameter(torch.tensor(3.0)), torch.tensor([[1.0], [2.0]], requires_grad=True)
    assert r1_penalty(a * inputs.square(), inputs).item() == pytest.approx(2 * 9 * (1 + 4) / 2)


def test_hinge_losses_are_those_of_the_definition_and_stop_at_the_margin():
    true, made = [torch.tensor([0.5, 2.0])], [torch.tensor([-3.0, 0.5])]
    assert hinge_discriminator(true, made).item() == pytest.approx(0.25 + 0.75)
    assert hinge_generator(made).item() == pytest.approx(1.25)
    far = [torch.tensor([2.0], requires_grad=True)], [torch.tensor([-2.0], requires_grad=True)]
    hinge_discriminator(*far).backward()
    assert far[0][0].grad is not None and far[0][0].grad.item() == 0


def test_feature_matching_is_relative_to_the_true_features_and_moves_the_made_ones_alone():
    true, made = torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor([1.0, 1.0], requires_grad=True)
    loss = feature_matching([[true]], [[made]])
    assert loss.item() == pytest.approx(2 / 3)
    loss.backward()
    assert true.grad is None and made.grad is not None


def losses_of(output: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"near": output.square().mean(), "far": 1e4 * (output - 1).abs().mean()}


@pytest.mark.parametrize("total", (0.0, 2.0))
def test_balanced_gradients_have_the_shares_of_their_weights_whatever_their_scale(total):
    torch.manual_seed(0)
    output = torch.randn(6, 10, requires_grad=True)
    grads = {name: torch.autograd.grad(loss, output)[0] for name, loss in losses_of(output).items()}
    norms = {name: (6 * grad).norm(dim=1).mean() for name, grad in grads.items()}
    loss = Balancer({"near": 1.0, "far": 3.0}, total)(losses_of(output), output)
    loss.backward()
    shares = {"near": total / 4, "far": 3 * total / 4} if total else {"near": norms["near"], "far": 3 * norms["near"]}
    expected = sum(shares[name] * grads[name] / norms[name] for name in grads)
    assert output.grad is not None and output.grad == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(sum(w * losses_of(output)[n].item() for n, w in (("near", 1), ("far", 3))), rel=1e-5)


def test_a_balanced_batch_has_the_mean_gradient_of_its_parts():
    torch.manual_seed(0)
    x, layer = torch.randn(8, 4), nn.Linear(4, 4)

    def gradient(rows: torch.Tensor) -> torch.Tensor:
        balancer = Balancer({"near": 1.0, "far": 1.0})
        balancer.eval()
        balancer.seen.fill_(1.0)
        balancer.norms.copy_(torch.tensor([0.5, 200.0]))  # as if the ranks had agreed upon them
        layer.zero_grad()
        output = layer(rows)
        balancer(losses_of(output), output).backward()
        assert layer.weight.grad is not None
        return layer.weight.grad.clone()

    assert gradient(x) == pytest.approx((gradient(x[:4]) + gradient(x[4:])) / 2, rel=1e-4)


def test_the_balancer_remembers_norms_with_its_decay_and_keeps_them_in_its_state():
    output = F.pad(torch.zeros(2, 3), (0, 0)).requires_grad_()
    balancer = Balancer({"a": 1.0}, decay=0.5)
    for scale in (1.0, 3.0):
        balancer({"a": scale * output[:, 0].sum()}, output)
    assert balancer.state_dict()["norms"].tolist() == pytest.approx([0.5 * 2 * 1 + 2 * 3])
    assert balancer.seen.item() == pytest.approx(1.5)
