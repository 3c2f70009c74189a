"""The diagonal of the K-FAC curvature, G_ii A_jj: what removing one whole weight meets. Layout as in `curvature`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.models.modes import evaluating
from madx.prune.curvature import output_curvature
from madx.prune.layers import ScoredLayer, linear_map, parameter_name, scored_layers


def diagonal_curvature(model: nn.Module, x_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
    """G_ii A_jj of every scored weight and bias for one batch, mean cross-entropy with the true labels.

    Args:
        model: not changed.
        x_adv: adversarial images, [B, ...].
        y: labels, int64 [B].

    Returns:
        Curvatures shaped as their parameters. A layer called several times adds up its factors over the calls; one that
        is not called, or whose output does not reach the loss, has none.
    """
    inputs: dict[str, dict[str, Tensor]] = {}
    outputs: dict[str, Tensor] = {}

    def observe(name: str, layer: ScoredLayer) -> Callable[..., None]:
        def on_gradient(gradient: Tensor) -> None:
            outputs[name] = outputs.get(name, 0) + output_curvature(layer, gradient)

        def on_forward(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            found = _input_squares(layer, (*args, *named.values())[0])
            inputs[name] = {kind: value + inputs.get(name, {}).get(kind, 0) for kind, value in found.items()}
            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        return on_forward

    hooks = [
        layer.register_forward_hook(observe(name, layer), with_kwargs=True)
        for name, layer in scored_layers(model).items()
    ]
    try:
        with evaluating(model), torch.enable_grad():
            images = x_adv.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(images), y), images)  # for its hooks
    finally:
        for hook in hooks:
            hook.remove()
    return {
        parameter_name(name, kind): outputs[name].view(-1, *[1] * (squares.dim() - 1)) * squares
        for name, kinds in inputs.items()
        if name in outputs
        for kind, squares in kinds.items()
    }


def _input_squares(layer: ScoredLayer, given: Tensor) -> dict[str, Tensor]:
    """diag(A): the sum of a_j^2 over batch and positions, shaped as the weight; a bias has the input 1."""
    weight = torch.zeros_like(layer.weight).requires_grad_()
    with torch.enable_grad():
        outputs = linear_map(layer, given.detach().square(), weight, None)
        (squares,) = torch.autograd.grad(outputs.sum(), weight)
    if layer.bias is None:
        return {"weight": squares}
    return {"weight": squares, "bias": torch.full_like(layer.bias, outputs.numel() / len(layer.bias)).detach()}
