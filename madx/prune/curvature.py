"""Kronecker-factored curvature of the adversarial loss, without ever forming a Kronecker factor.

Canonical layout: a layer's weight is W [out, in/groups, *kernel] (Linear: [out, in]), its bias b [out]; row i of the
curvature belongs to output channel i, and the bias is one more column whose input is 1. A transposed convolution's
weight is kept as torch has it, [in, out/groups, *kernel]; its row i is what makes output channel i all the same, and
its patch at a position of the output holds the inputs that the kernel brings there, zero where the stride leaves a gap.

For a patch vector a at batch item n and position t, and g the gradient of the batch-mean loss at the layer's output,
with S positions per item, K-FAC for convolutions (Grosse & Martens 2016, arXiv 1602.01407) is

    A (x) G = [ sum_{n,t} a a^T ] (x) [ sum_{n,t} g g^T ] / S        (a linear layer on [batch, in] has S = 1)

Only diag(G) and products D A with a perturbation D are needed, and for the layer's own linear map z = D a

    D A = sum_{n,t} (D a) a^T = the gradient of 1/2 sum |z|^2 at D,

one convolution forward and one weight gradient, for any stride, dilation, padding mode and group count, transposed or
not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.errors import ModelError
from madx.models.modes import evaluating
from madx.prune.layers import Call, ScoredLayer, call_of, linear_map, scored_layers

Look = Callable[[str, ScoredLayer, Call], None]
"""Is told a scored layer's name, the layer and one call of it."""


def watched_pass(
    model: nn.Module, x_adv: Tensor, y: Tensor, *, look: Look, values: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """One forward and backward pass of the mean cross-entropy in eval mode.

    Args:
        model: not changed.
        x_adv: adversarial images, [B, ...].
        y: labels, int64 [B].
        look: is called while the forward pass has a layer's input at hand, so that none is kept.
        values: take the place of the parameters of these names.

    Returns:
        diag(G), [out], by layer name. A layer called several times adds up its calls; one whose output the loss does
        not depend on, or only through a detached tensor, has none.

    Raises:
        ModelError: a layer is computed again during the backward pass.
    """
    curvatures: dict[str, Tensor] = {}
    sources = [x_adv.detach().requires_grad_()]
    going_back = False

    def on_inputs(name: str, layer: ScoredLayer, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if going_back:
            raise ModelError(
                f"the network computes {name} a second time on the way back (activation checkpointing), where masked "
                "weights are no longer in its place; switch that off in eval mode, or use prune.criterion: mad"
            )
        look(name, layer, call_of(layer, inputs, named))

    def on_output(name: str, layer: ScoredLayer, _: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        def on_gradient(gradient: Tensor) -> None:
            curvatures[name] = curvatures.get(name, 0) + output_curvature(layer, gradient, images=len(y))

        if output.requires_grad:
            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]
            return None
        # It does not depend on the images (a learned query, say): backward has to reach it on its own account.
        sources.append(output.detach().requires_grad_())
        sources[-1].register_hook(on_gradient)  # type: ignore[no-untyped-call]
        return sources[-1].clone()

    frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
    hooks = []
    for name, layer in scored_layers(model).items():
        hooks.append(layer.register_forward_pre_hook(partial(on_inputs, name), with_kwargs=True))
        hooks.append(layer.register_forward_hook(partial(on_output, name)))
    try:
        with evaluating(model), torch.enable_grad():
            loss = F.cross_entropy(functional_call(model, frozen | dict(values or {}), (sources[0],)), y)
            going_back = True
            # For its hooks: the gradients at the layers' outputs.
            torch.autograd.grad(loss, sources, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return curvatures


def input_product(layer: ScoredLayer, call: Call, perturbation: dict[str, Tensor]) -> dict[str, Tensor]:
    """D A of this layer for one call: "weight" (and "bias") shaped as the perturbation's.

    Args:
        layer: gives the geometry; its own weights are not used.
        call: what the layer was called with.
        perturbation: D as "weight" and, for a layer with bias, "bias".
    """
    leaves = {kind: value.detach().requires_grad_() for kind, value in perturbation.items()}
    with torch.enable_grad():
        outputs = linear_map(layer, call._replace(inputs=call.inputs.detach()), leaves["weight"], leaves.get("bias"))
        # The gradient of 1/2 sum |z|^2 at z is z itself, so no square is formed.
        products = torch.autograd.grad(outputs, list(leaves.values()), outputs.detach())
    return dict(zip(leaves, products, strict=True))


def output_curvature(layer: ScoredLayer, gradient: Tensor, *, images: int) -> Tensor:
    """diag(G), [out]: the summed squares of the gradient at the layer's output over batch and positions, over S.

    Args:
        layer: tells which axis has the channels.
        gradient: at the output of one call.
        images: of the batch. They are the first axis, unless the network has them elsewhere: transformers may take
            the sequence first, windows and frames are folded into the first axis. What does not see the images has
            none of them; neither has a call with one item that has no axis for others.
    """
    linear = isinstance(layer, nn.Linear)
    channels = gradient.dim() - 1 - (0 if isinstance(layer, nn.Linear) else len(layer.kernel_size))
    if channels == 0:
        gradient, channels = gradient[None], 1
    others = [dimension for dimension in range(gradient.dim()) if dimension != channels]
    sizes = [gradient.shape[dimension] for dimension in others]
    items = images if sizes[0] % images == 0 or (linear and images in sizes) else sizes[0]
    return gradient.square().sum(others) / (math.prod(sizes) // items)
