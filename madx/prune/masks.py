"""From scores to masks: unstructured, and two of every four along the input channels.

Masks are bool with the parameter's shape, True = kept, keyed by parameter name. A parameter without a mask is kept
whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from madx.errors import ModelError
from madx.prune.layers import ScoredLayer, parameter_name, rows_with_bias, scored_layers

GROUP = 4
"""Consecutive input channels that 2:4 looks at together."""
FILLING = 0.1
"""Of a tensor's mean magnitude: enough for a kernel not to take it for a zero, and logits stay in their range."""


def unstructured_masks(
    module: nn.Module, scores: Mapping[str, Tensor], sparsity: float, *, unscored: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Remove the `sparsity` share with the lowest scores, as the MAD paper does.

    All convolution weights and biases are one pool; of a linear layer each output row, its bias included, is a pool of
    its own.

    Args:
        module: the network, not changed.
        scores: for every scored parameter.
        sparsity: share of each pool.
        unscored: layers that stay whole, from `unscored_layers`; they have no mask and need no scores.

    Raises:
        ModelError: a scored layer has no scores, or scores of the wrong shape.
    """
    pooled: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, layer in scored_layers(module).items():
        if name in (unscored or {}):
            continue
        own = _scores_of(name, layer, scores)
        if isinstance(layer, nn.Linear):
            masks |= _row_masks(own, sparsity)
        else:
            pooled |= own
    if pooled:
        flat = torch.cat([score.flatten() for score in pooled.values()])
        kept = _keep_highest(flat[None], sparsity)[0]
        parts = torch.split(kept, [score.numel() for score in pooled.values()])
        masks |= {name: part.view(score.shape) for (name, score), part in zip(pooled.items(), parts, strict=True)}
    return masks


def two_four_masks(
    module: nn.Module, scores: Mapping[str, Tensor], *, unscored: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Keep the two highest of every four consecutive input channels, at each output channel and kernel position.

    This is the rule of TensorRT's sparse kernels. Biases are kept.

    Args:
        module: the network, not changed.
        scores: for every scored parameter.
        unscored: layers that stay whole and why, from `unscored_layers`; they need no scores.

    Returns:
        Masks of the eligible layers' weights, and for each other layer the reason why it stays dense.

    Raises:
        ModelError: an eligible layer has no scores, or scores of the wrong shape.
    """
    masks: dict[str, Tensor] = {}
    dense: dict[str, str] = dict(unscored or {})
    for name, layer in scored_layers(module).items():
        if name in dense:
            continue
        if reason := _why_dense(layer):
            dense[name] = reason
            continue
        parameter = parameter_name(name, "weight")
        score = _scores_of(name, layer, scores)[parameter].movedim(1, -1)
        groups = score.reshape(-1, GROUP)
        kept = _keep_highest(groups, 0.5).view(score.shape)
        masks[parameter] = kept.movedim(-1, 1).contiguous()
    return masks, dense


def apply_masks_(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the removed entries of the module's parameters to zero.

    Raises:
        ModelError: a mask is not that of a parameter of the module.
    """
    parameters = dict(module.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or mask.shape != parameters[name].shape:
            own = list(parameters[name].shape) if name in parameters else "no such parameter"
            raise ModelError(f"the mask of {name} has shape {list(mask.shape)}, the network has {own}")
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask.to(parameters[name].device))


def fill_zeros_(module: nn.Module, *, generator: torch.Generator) -> None:
    """Give every zero weight that pruning may have made a small value of random sign, so that none is left.

    The network then has the shapes of the pruned one and nothing for sparse kernels to skip. It can be timed in the
    place of one whose single weights were never removed; what it computes means nothing.
    """
    with torch.no_grad():
        for layer in scored_layers(module).values():
            weight = layer.weight
            signs = torch.randint(0, 2, weight.shape, generator=generator).to(weight) * 2 - 1
            weight.copy_(torch.where(weight == 0, FILLING * weight.abs().mean() * signs, weight))


def _why_dense(layer: ScoredLayer) -> str:
    """Why sparse tensor cores cannot take this layer (the rule of NVIDIA's ASP), or nothing."""
    if isinstance(layer, _ConvTransposeNd):
        return "transposed convolution: no sparse kernels exist"
    outputs, inputs = layer.weight.shape[:2]
    if not isinstance(layer, nn.Linear) and layer.groups > 1:
        return f"grouped convolution ({layer.groups} groups): no sparse kernels exist"
    if inputs % 16:
        return f"{inputs} input channels are not a multiple of 16"
    if outputs % 8:
        return f"{outputs} output channels are not a multiple of 8"
    return ""


def _row_masks(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks of a linear layer, row by row with the bias as the last column."""
    rows = rows_with_bias(scores.values())
    # An output that nothing feeds is a constant logit: a row keeps one entry whatever the sparsity.
    kept = _keep_highest(rows, min(sparsity, 1 - 1 / rows.shape[1]))
    widths = [score.shape[1] if score.dim() > 1 else 1 for score in scores.values()]
    parts = torch.split(kept, widths, dim=1)
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _keep_highest(scores: Tensor, sparsity: float) -> Tensor:
    """In each row remove round(sparsity * width) entries of lowest score; ties go in order of position."""
    removed = round(sparsity * scores.shape[1])
    if removed == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # A selection, not a sort: with a million entries that is ten times as fast.
    last = scores.kthvalue(removed, dim=1, keepdim=True).values
    kept = scores > last
    tied = scores == last
    # Of the entries that tie with the last one to go, the first of the row fill what the lower ones leave to remove.
    spared = tied.cumsum(1) > removed - (scores < last).sum(1, keepdim=True)
    return kept | (tied & spared)


def _scores_of(name: str, layer: ScoredLayer, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores of a layer's weight and bias, in that order."""
    found: dict[str, Tensor] = {}
    for kind, parameter in layer.named_parameters(recurse=False):
        full = parameter_name(name, kind)
        if full not in scores:
            raise ModelError(
                f"there is no saliency for {full}; name {name or 'the network'} in `unscored` if it is to stay whole"
            )
        if scores[full].shape != parameter.shape:
            raise ModelError(
                f"the saliency of {full} has shape {list(scores[full].shape)}, the parameter {list(parameter.shape)}"
            )
        found[full] = scores[full]
    return found
