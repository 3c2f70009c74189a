"""The diagonal of the K-FAC curvature, G_ii A_jj: what removing one whole weight meets. Layout as in `curvature`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from madx.prune.curvature import watched_pass
from madx.prune.layers import Call, ScoredLayer, by_output, linear_map, parameter_name, scored_layers


def diagonal_curvature(model: nn.Module, x_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
    """G_ii A_jj of every scored weight and bias for one batch, mean cross-entropy with the true labels.

    Args:
        model: not changed.
        x_adv: adversarial images, [B, ...].
        y: labels, int64 [B].

    Returns:
        Curvatures shaped as their parameters. A layer called several times adds up its factors over the calls; one that
        is not called, or that no gradient of the loss comes back to, has none.
    """
    squares: dict[str, Tensor] = {}

    def add_squares(layer_name: str, layer: ScoredLayer, call: Call) -> None:
        for kind, found in _input_squares(layer, call).items():
            name = parameter_name(layer_name, kind)
            squares[name] = squares.get(name, 0) + found

    curvatures = watched_pass(model, x_adv, y, look=add_squares)
    layers = scored_layers(model)
    return {
        name: by_output(layers[layer], curvatures[layer], found) * found
        for name, found in squares.items()
        if (layer := name.rpartition(".")[0]) in curvatures
    }


def _input_squares(layer: ScoredLayer, call: Call) -> dict[str, Tensor]:
    """diag(A): the sum of a_j^2 over batch and positions, shaped as the weight; a bias has the input 1."""
    weight = torch.zeros_like(layer.weight).requires_grad_()
    with torch.enable_grad():
        outputs = linear_map(layer, call._replace(inputs=call.inputs.detach().square()), weight, None)
        (squares,) = torch.autograd.grad(outputs.sum(), weight)
    found = {"weight": squares}
    bias = dict(layer.named_parameters(recurse=False)).get("bias")  # none where it is computed from other tensors
    if bias is not None:
        found["bias"] = torch.full_like(bias, outputs.numel() / len(bias)).detach()
    return found
