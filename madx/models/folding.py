"""BatchNorm inside the convolution before it: the same logits in eval mode, for less time.

In eval mode BatchNorm is z -> scale z + shift per channel, with scale = weight / sqrt(running_var + eps) and shift =
bias - scale running_mean; behind a convolution with weight W and bias b that is one convolution with scale W and
scale b + shift. Which BatchNorm follows which convolution is observed while the network runs on example images, so no
code is traced. Images are [B, ...] in the unit the network takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from madx.models.copies import copied
from madx.models.layers import per_output
from madx.models.modes import evaluating
from madx.models.precision import PLAIN, ComputeFormat
from madx.plugins import USER_ERRORS, describe

_TOLERANCE = 1e-4
"""Of the largest logit of the example (at least 1): rounding in float32 stays far below."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Folded(nn.Module):
    """A copy of a network for eval mode, with BatchNorms folded and images and weights in the given order.

    Attributes:
        network: the copy; its parameters have the original's names, and folded convolutions have a bias.
        folds: the name of the folded BatchNorm by the name of its convolution.
        left: why BatchNorms were left alone, by name.
    """

    def __init__(
        self, network: nn.Module, folds: Mapping[str, str], left: Mapping[str, str], format: ComputeFormat
    ) -> None:
        super().__init__()
        self.network, self.folds, self.left, self.format = network, dict(folds), dict(left), format
        self._shifts = {name: _fold_(network, name, norm) for name, norm in folds.items()}
        format.order_(network)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images to the original network's logits."""
        logits: Tensor = self.network(self.format.ordered(x))
        return logits

    def masked(self, masks: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits of the original network with its parameters multiplied by `masks`; gradients flow to masks and images.

        Args:
            masks: by the original's parameter names, shaped as the parameters.
            x: images.
        """
        values = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        for name, mask in masks.items():
            layer, _, kind = name.rpartition(".")
            shift = self._shifts.get(layer) if kind == "bias" else None
            values[name] = values[name] * mask if shift is None else (values[name] - shift) * mask + shift
        logits: Tensor = functional_call(self.network, values, (self.format.ordered(x),))
        return logits

    def train(self, mode: bool = True) -> Folded:  # noqa: ARG002
        """Stay in eval mode: nowhere else are these the original's logits."""
        super().train(False)
        return self


def folded(module: nn.Module, example: Tensor, *, format: ComputeFormat = PLAIN) -> Folded:
    """A faster copy of `module` with its eval-mode logits.

    A BatchNorm is folded only if it reads the output of one convolution, both are called once, and autograd shows no
    other reader. The copy's logits are compared with the original's on the example; if they differ, nothing is folded.

    Args:
        module: not changed; later changes of its weights do not reach the copy.
        example: a few images.
        format: its order of images and weights in memory; its precision plays no part here.
    """
    folds, left = _foldable(module, example)
    with evaluating(module), torch.no_grad():
        expected = module(example)
    attempts: list[tuple[dict[str, str], ComputeFormat]] = [(folds, format), (folds, PLAIN), ({}, format)]
    problem = ""
    for chosen, order in attempts:
        reasons = left if chosen == folds else left | dict.fromkeys(folds.values(), problem)
        candidate = Folded(copied(module), chosen, reasons, order)
        problem = _problem(candidate, example, expected)
        if not problem:
            return candidate
    return Folded(copied(module), {}, left | dict.fromkeys(folds.values(), problem), PLAIN)


class _Passing(NamedTuple):
    """A tensor on its way out of a convolution or into a BatchNorm, and how autograd knows it."""

    tensor: Tensor
    node: Any
    version: int

    def is_same(self, other: _Passing) -> bool:
        """Whether nothing changed the tensor in place between the two."""
        return self.tensor is other.tensor and self.node is other.node and self.version == other.version


def _foldable(module: nn.Module, example: Tensor) -> tuple[dict[str, str], dict[str, str]]:
    """(BatchNorm by convolution, why the other BatchNorms stay)."""
    norms = {name: layer for name, layer in module.named_modules() if isinstance(layer, _NORMS)}
    convolutions = {name: layer for name, layer in module.named_modules() if type(layer) in _CONVOLUTIONS}
    if not norms:
        return {}, {}
    outputs, inputs, readers = _observe(module, convolutions, norms, example)
    folds: dict[str, str] = {}
    left: dict[str, str] = {}
    for name, layer in norms.items():
        calls = inputs.get(name, [])
        makers = [maker for maker, passed in outputs.items() if any(p.is_same(c) for p in passed for c in calls)]
        if type(layer) not in _NORMS or layer.running_mean is None or not _is_plain(module, layer):
            left[name] = "has hooks, shares or computes its parameters, or keeps no statistics"
        elif len(calls) != 1:
            left[name] = f"called {len(calls)} times"
        elif not makers or calls[0].node is None or len(outputs[makers[0]]) != 1:
            left[name] = "does not read the output of a convolution that is called once"
        elif not _is_plain(module, convolutions[makers[0]]):
            left[name] = f"{makers[0]} has hooks, or shares or computes its parameters"
        elif readers[calls[0].node] != 1:
            left[name] = f"something else reads the output of {makers[0]} too"
        else:
            folds[makers[0]] = name
    return folds, left


_Calls = dict[str, list[_Passing]]
"""By layer name, in the order of the calls."""


def _is_plain(module: nn.Module, layer: nn.Module) -> bool:
    """Whether a layer is nothing but its class: no hook, no parametrisation, no parameter that another layer has."""
    own = set(layer.parameters(recurse=False))
    shared = any(own & set(other.parameters(recurse=False)) for other in module.modules() if other is not layer)
    hooked = any((layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks))
    return not (shared or hooked or list(layer.children()))


def _observe(
    module: nn.Module, convolutions: Mapping[str, nn.Module], norms: Mapping[str, nn.Module], example: Tensor
) -> tuple[_Calls, _Calls, Counter[Any]]:
    """Run the network once: convolutions' outputs, BatchNorms' inputs, and the readers of each node of the graph."""
    outputs: _Calls = {}
    inputs: _Calls = {}

    def note(calls: _Calls, name: str, tensor: Tensor) -> None:
        calls.setdefault(name, []).append(_Passing(tensor, tensor.grad_fn, tensor._version))

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: note(outputs, name, output))
        for name, layer in convolutions.items()
    ]
    hooks += [
        layer.register_forward_pre_hook(
            lambda _, given, named, name=name: note(inputs, name, (*given, *named.values())[0]), with_kwargs=True
        )
        for name, layer in norms.items()
    ]
    try:
        with evaluating(module), torch.enable_grad():
            logits = module(example.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    readers = Counter(follower for node in _nodes(logits.grad_fn) for follower, _ in node.next_functions)
    return outputs, inputs, readers


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of an autograd graph once."""
    pending, seen = [root], {root}
    while pending:
        node = pending.pop()
        if node is None:
            continue
        yield node
        for follower, _ in node.next_functions:
            if follower not in seen:
                seen.add(follower)
                pending.append(follower)


@torch.no_grad()
def _fold_(network: nn.Module, convolution: str, norm: str) -> Tensor:
    """Fold in place, and return the shift: what of the new bias does not come from the convolution's own."""
    layer: Any = network.get_submodule(convolution)
    batch_norm: Any = network.get_submodule(norm)
    scale = torch.rsqrt(batch_norm.running_var + batch_norm.eps)
    shift: Tensor = -batch_norm.running_mean * scale
    if batch_norm.affine:
        scale, shift = scale * batch_norm.weight, shift * batch_norm.weight + batch_norm.bias
    layer.weight = nn.Parameter(layer.weight * per_output(scale, layer.weight))
    layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
    parent, _, child = norm.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return shift


def _problem(candidate: Folded, example: Tensor, expected: Tensor) -> str:
    """What is wrong with a folded copy, or nothing."""
    try:
        with torch.no_grad():
            given = candidate(example)
    except USER_ERRORS as problem:
        return f"the folded network does not run: {describe(problem)}"
    difference = (given - expected).abs().max().item() if given.shape == expected.shape else torch.inf
    if not difference <= _TOLERANCE * max(1.0, expected.abs().max().item()):
        return f"the folded network gave other logits (by {difference:.2g})"
    return ""
