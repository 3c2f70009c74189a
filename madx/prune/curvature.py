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
import torch.nn.functional as F
from torch import Tensor, nn

from madx.errors import ModelError

SCORED_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weights and biases have a saliency."""

ScoredLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


def scored_layers(module: nn.Module) -> dict[str, ScoredLayer]:
    """Every convolution and linear layer by name; a module in several places counts once, by its first name.

    Raises:
        ModelError: there is none, or one whose weight is not a parameter of its own.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, SCORED_LAYERS)}
    if not layers:
        raise ModelError("the network has no convolution and no linear layer, so there is nothing to prune")
    owners: dict[nn.Parameter, str] = {}
    for name, layer in layers.items():
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is None:
            raise ModelError(
                f"the weight of {name} is computed from other tensors (a parametrisation such as weight_norm); remove "
                "that first, for example with torch.nn.utils.parametrize.remove_parametrizations"
            )
        if owners.setdefault(weight, name) != name:
            raise ModelError(f"{owners[weight]} and {name} share one weight; use one module in both places, or copy it")
    return layers


def scored_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of the scored layers by parameter name, in the network's order."""
    parameters: dict[str, nn.Parameter] = {}
    for layer_name, layer in scored_layers(module).items():
        for kind, parameter in layer.named_parameters(recurse=False):
            parameters[f"{layer_name}.{kind}" if layer_name else kind] = parameter
    return parameters


def input_product(layer: ScoredLayer, inputs: Tensor, perturbation: dict[str, Tensor]) -> dict[str, Tensor]:
    """D A of this layer for one call: "weight" (and "bias") shaped as the perturbation's.

    Args:
        layer: gives the geometry; its own weights are not used.
        inputs: what the layer was called with.
        perturbation: D as "weight" and, for a layer with bias, "bias".
    """
    leaves = {kind: value.detach().requires_grad_() for kind, value in perturbation.items()}
    with torch.enable_grad():
        outputs = _linear_map(layer, inputs.detach(), leaves["weight"], leaves.get("bias"))
        products = torch.autograd.grad(0.5 * outputs.square().sum(), list(leaves.values()))
    return dict(zip(leaves, products, strict=True))


def output_curvature(layer: ScoredLayer, gradient: Tensor) -> Tensor:
    """diag(G), [out]: the summed squares of the gradient at the layer's output over batch and positions, over S."""
    channel = gradient.dim() - 1 if isinstance(layer, nn.Linear) else 1
    others = [dimension for dimension in range(gradient.dim()) if dimension != channel]
    positions = gradient.numel() // (gradient.shape[0] * gradient.shape[channel])
    return gradient.square().sum(others) / positions


def _linear_map(layer: ScoredLayer, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's map with other weights; convolutions bring their own padding mode."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    # The one place where torch applies padding_mode.
    outputs: Tensor = layer._conv_forward(inputs, weight, bias)
    return outputs
