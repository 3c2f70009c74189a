"""The saliency of MAD: Lee, Kim, Ro, "Masking Adversarial Damage", CVPR 2022 (arXiv 2204.02738).

A mask value m in (0, 1] for each weight is optimised so that the masked network loses least on adversarial images; what
the mask takes away, dw = w - w m, is weighed with the curvature of the adversarial loss at the masked network:

    saliency_ij = 1/2 G_ii dw_ij (dw A)_ij

It is signed and is ranked as it is. The network is in eval mode throughout, so that BatchNorm does not move.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.errors import ModelError
from madx.models.modes import evaluating
from madx.prune.curvature import (
    ScoredLayer,
    input_product,
    output_curvature,
    scored_layers,
    scored_parameters,
)

_LOWEST_MASK = 1e-4
_THETA_ONE = math.log(math.expm1(1.0))
"""softplus(theta) = 1"""
_THETA_LOWEST = math.log(math.expm1(_LOWEST_MASK))


def optimise_masks(
    model: nn.Module, x_adv: Tensor, y: Tensor, *, steps: int = 20, lr: float = 0.1
) -> dict[str, Tensor]:
    """Masks of every scored weight and bias that lower the adversarial loss of the masked network.

    m = softplus(theta) starts at 1; Adam minimises the mean cross-entropy of the network with weights w m, and after
    each step theta is clamped so that 1e-4 <= m <= 1.

    Args:
        model: its weights are not changed.
        x_adv: adversarial images of one batch, [B, ...].
        y: labels, int64 [B].
        steps: Adam steps.
        lr: Adam's learning rate.

    Returns:
        Mask values shaped as their parameters; a mask at its upper clamp is exactly 1.
    """
    weights = {name: parameter.detach() for name, parameter in scored_parameters(model).items()}
    frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
    thetas = {name: torch.full_like(weight, _THETA_ONE, requires_grad=True) for name, weight in weights.items()}
    optimiser = torch.optim.Adam(thetas.values(), lr=lr)
    with evaluating(model), torch.enable_grad():
        for _ in range(steps):
            masked = {name: weight * F.softplus(thetas[name]) for name, weight in weights.items()}
            loss = F.cross_entropy(functional_call(model, frozen | masked, (x_adv,)), y)
            gradients = torch.autograd.grad(loss, list(thetas.values()), allow_unused=True)
            for theta, gradient in zip(thetas.values(), gradients, strict=True):
                theta.grad = gradient
            optimiser.step()
            with torch.no_grad():
                for theta in thetas.values():
                    theta.clamp_(_THETA_LOWEST, _THETA_ONE)
    return {name: _mask_values(theta.detach()) for name, theta in thetas.items()}


def mad_saliency(model: nn.Module, x_adv: Tensor, y: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """MAD's saliency of every scored weight and bias for one batch.

    Args:
        model: its weights are not changed.
        x_adv: adversarial images, [B, ...].
        y: labels, int64 [B].
        masks: mask values in (0, 1] shaped as their parameters, from `optimise_masks`; one for each scored parameter.

    Returns:
        Scores shaped as their parameters. A layer that the forward pass does not call (or whose output does not reach
        the loss) has none.

    Raises:
        ModelError: a mask is missing or has the wrong shape.
    """
    parameters = scored_parameters(model)
    _check_masks(parameters, masks)
    masked = {name: parameter.detach() * masks[name] for name, parameter in parameters.items()}
    removed = {name: parameter.detach() - masked[name] for name, parameter in parameters.items()}
    products, curvatures = _statistics(model, x_adv, y, masked, removed)
    saliency: dict[str, Tensor] = {}
    for name, product in products.items():
        curvature = curvatures.get(name.rpartition(".")[0])
        if curvature is not None:
            rows = curvature.view(-1, *([1] * (product.dim() - 1)))
            saliency[name] = 0.5 * rows * removed[name] * product
    return saliency


def _statistics(
    model: nn.Module, x_adv: Tensor, y: Tensor, masked: dict[str, Tensor], removed: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One forward and backward of the masked network: dw A by parameter name, diag(G) by layer name.

    dw A is formed while the forward pass has the layer's input at hand, so no input is kept for it. A layer called
    several times adds up its calls.
    """
    products: dict[str, Tensor] = {}
    curvatures: dict[str, Tensor] = {}

    def observe(name: str, layer: ScoredLayer) -> Callable[..., None]:
        prefix = f"{name}." if name else ""

        def on_gradient(gradient: Tensor) -> None:
            curvatures[name] = curvatures.get(name, 0) + output_curvature(layer, gradient)

        def on_forward(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            kinds = [kind for kind in ("weight", "bias") if f"{prefix}{kind}" in removed]
            perturbation = {kind: removed[f"{prefix}{kind}"] for kind in kinds}
            for kind, product in input_product(layer, (*inputs, *named.values())[0], perturbation).items():
                products[f"{prefix}{kind}"] = products.get(f"{prefix}{kind}", 0) + product
            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        return on_forward

    frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
    hooks = [
        layer.register_forward_hook(observe(name, layer), with_kwargs=True)
        for name, layer in scored_layers(model).items()
    ]
    try:
        with evaluating(model), torch.enable_grad():
            images = x_adv.detach().requires_grad_()
            loss = F.cross_entropy(functional_call(model, frozen | masked, (images,)), y)
            torch.autograd.grad(loss, images)  # for its hooks: the gradients at the layers' outputs
    finally:
        for hook in hooks:
            hook.remove()
    return products, curvatures


def _mask_values(theta: Tensor) -> Tensor:
    """softplus(theta), exactly 1 at the upper clamp: float32 would leave 1 - 6e-8 there, noise with a random sign."""
    return torch.where(theta >= _THETA_ONE - 1e-6, torch.ones_like(theta), F.softplus(theta))


def _check_masks(parameters: dict[str, nn.Parameter], masks: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        if name not in masks:
            raise ModelError(f"there is no mask for {name}; masks are needed for {', '.join(parameters)}")
        if masks[name].shape != parameter.shape:
            raise ModelError(
                f"the mask of {name} has shape {list(masks[name].shape)}, the parameter {list(parameter.shape)}"
            )
