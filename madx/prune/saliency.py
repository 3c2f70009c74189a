"""The saliency of MAD: Lee, Kim, Ro, "Masking Adversarial Damage", CVPR 2022 (arXiv 2204.02738).

A mask value m in (0, 1] for each weight is optimised so that the masked network loses least on adversarial images; what
the mask takes away, dw = w - w m, is weighed with the curvature of the adversarial loss at the masked network:

    saliency_ij = 1/2 G_ii dw_ij (dw A)_ij

It is signed and is ranked as it is. The network is in eval mode throughout, so that BatchNorm does not move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.errors import ModelError
from madx.models.folding import folded
from madx.models.modes import evaluating
from madx.models.precision import PLAIN, ComputeFormat
from madx.prune.curvature import input_product, watched_pass
from madx.prune.layers import Call, ScoredLayer, by_output, parameter_name, scored_layers, scored_parameters

MASK_STEPS = 20
"""Steps of the masks of each batch."""
_EXAMPLES = 8
"""Images that folding is observed and checked on."""
_EXACT_STEPS = 1
"""With bf16: first steps in full precision. Adam's first is the sign of the gradient, and decides most of the masks."""
_LOWEST_MASK = 1e-4
_THETA_ONE = math.log(math.expm1(1.0))
"""softplus(theta) = 1"""
_THETA_LOWEST = math.log(math.expm1(_LOWEST_MASK))


def optimise_masks(
    model: nn.Module,
    x_adv: Tensor,
    y: Tensor,
    *,
    steps: int = MASK_STEPS,
    lr: float = 0.1,
    format: ComputeFormat = PLAIN,
    fold: bool = False,
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
        format: of the passes through the network; the first is in the model's own precision, and masks and loss
            always are. Adam follows the signs of tiny gradients, so bf16 gives other masks where the loss hardly cares.
        fold: work on `madx.models.folding.folded`, which rounds otherwise and is faster.

    Returns:
        Mask values shaped as their parameters; a mask at its upper clamp is exactly 1.
    """
    logits = _masked_network(model, x_adv, format, fold=fold)
    parameters = scored_parameters(model)
    theta = _flat_like(parameters, _THETA_ONE).requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=lr)
    with evaluating(model), torch.enable_grad():
        for step in range(steps):
            low = format.autocast(x_adv.device) if step >= _EXACT_STEPS else nullcontext()
            with low:
                outputs = logits(_cut(F.softplus(theta), parameters, channels_last=format.channels_last))
            loss = F.cross_entropy(outputs.to(theta.dtype), y)
            (theta.grad,) = torch.autograd.grad(loss, theta)
            optimiser.step()
            with torch.no_grad():
                theta.clamp_(_THETA_LOWEST, _THETA_ONE)
    masks = _cut(_mask_values(theta.detach()), parameters, channels_last=format.channels_last)
    return {name: mask.contiguous() for name, mask in masks.items()}


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
    products: dict[str, Tensor] = {}

    def add_product(layer_name: str, layer: ScoredLayer, call: Call) -> None:
        names = {kind: parameter_name(layer_name, kind) for kind in ("weight", "bias")}
        perturbation = {kind: removed[name] for kind, name in names.items() if name in removed}
        for kind, product in input_product(layer, call, perturbation).items():
            products[names[kind]] = products.get(names[kind], 0) + product

    curvatures = watched_pass(model, x_adv, y, look=add_product, values=masked)
    saliency: dict[str, Tensor] = {}
    layers = scored_layers(model)
    for name, product in products.items():
        layer = name.rpartition(".")[0]
        if layer in curvatures:
            saliency[name] = 0.5 * by_output(layers[layer], curvatures[layer], product) * removed[name] * product
    return saliency


def _masked_network(
    model: nn.Module, x_adv: Tensor, format: ComputeFormat, *, fold: bool
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Masks -> logits of the network with weights w m on `x_adv`."""
    if fold:
        network = folded(model, x_adv[:_EXAMPLES], format=format)
        return lambda masks: network.masked(masks, x_adv)
    frozen = {name: format.ordered(parameter.detach()) for name, parameter in model.named_parameters()}
    x_adv = format.ordered(x_adv)

    def logits(masks: dict[str, Tensor]) -> Tensor:
        masked = {name: frozen[name] * mask for name, mask in masks.items()}
        outputs: Tensor = functional_call(model, frozen | masked, (x_adv,))
        return outputs

    return logits


def _flat_like(parameters: Mapping[str, Tensor], value: float) -> Tensor:
    """One vector for all parameters: a step of Adam is then a few operations, however many layers there are."""
    first = next(iter(parameters.values()))
    return torch.full((sum(p.numel() for p in parameters.values()),), value, dtype=first.dtype, device=first.device)


def _cut(flat: Tensor, parameters: Mapping[str, Tensor], *, channels_last: bool) -> dict[str, Tensor]:
    """Views of `flat` shaped as the parameters; with `channels_last`, 4-D ones have that order in memory."""
    pieces = torch.split(flat, [parameter.numel() for parameter in parameters.values()])
    views: dict[str, Tensor] = {}
    for (name, parameter), piece in zip(parameters.items(), pieces, strict=True):
        if channels_last and parameter.dim() == 4:
            outputs, inputs, height, width = parameter.shape
            views[name] = piece.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
        else:
            views[name] = piece.view(parameter.shape)
    return views


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
