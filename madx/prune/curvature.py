"""Kronecker-factored curvature of the adversarial loss, without ever forming a Kronecker factor.

Canonical layout: a layer's weight is W [out, in/groups, *kernel] (Linear: [out, in]), its bias b [out]; row i of the
curvature belongs to output channel i, and the bias is one more column whose input is 1.

For a patch vector a at batch item n and position t, and g the gradient of the batch-mean loss at the layer's output,
with S positions per item, K-FAC for convolutions (Grosse & Martens 2016, arXiv 1602.01407) is

    A (x) G = [ sum_{n,t} a a^T ] (x) [ sum_{n,t} g g^T ] / S        (a linear layer on [batch, in] has S = 1)

Only diag(G) and products D A with a perturbation D are needed, and for the layer's own linear map z = D a

    D A = sum_{n,t} (D a) a^T = the gradient of 1/2 sum |z|^2 at D,

one convolution forward and one weight gradient, for any stride, dilation, padding mode and group count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from madx.prune.layers import ScoredLayer, linear_map


def input_product(layer: ScoredLayer, inputs: Tensor, perturbation: dict[str, Tensor]) -> dict[str, Tensor]:
    """D A of this layer for one call: "weight" (and "bias") shaped as the perturbation's.

    Args:
        layer: gives the geometry; its own weights are not used.
        inputs: what the layer was called with.
        perturbation: D as "weight" and, for a layer with bias, "bias".
    """
    leaves = {kind: value.detach().requires_grad_() for kind, value in perturbation.items()}
    with torch.enable_grad():
        outputs = linear_map(layer, inputs.detach(), leaves["weight"], leaves.get("bias"))
        # The gradient of 1/2 sum |z|^2 at z is z itself, so no square is formed.
        products = torch.autograd.grad(outputs, list(leaves.values()), outputs.detach())
    return dict(zip(leaves, products, strict=True))


def output_curvature(layer: ScoredLayer, gradient: Tensor) -> Tensor:
    """diag(G), [out]: the summed squares of the gradient at the layer's output over batch and positions, over S."""
    channel = gradient.dim() - 1 if isinstance(layer, nn.Linear) else 1
    others = [dimension for dimension in range(gradient.dim()) if dimension != channel]
    positions = gradient.numel() // (gradient.shape[0] * gradient.shape[channel])
    return gradient.square().sum(others) / positions
