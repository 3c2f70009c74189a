"""Which layers have a saliency, and why the others have none.

A layer is scored if it is a convolution, a transposed one too, or a linear layer, and owns its weight. Everything else
that holds weights, that is a parameter with two or more dimensions, is listed with the reason; scales and shifts of
normalisations are no weights. Layers are keyed by module name, parameters by parameter name ("layer1.conv1.weight").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvTransposeNd

from madx.errors import ModelError, RecipeError
from madx.models.copies import copied
from madx.models.layers import per_output
from madx.models.modes import evaluating
from madx.plugins import USER_ERRORS, describe
from madx.seeds import torch_draws, torch_generator

TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

ScoredLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | TransposedConvolution

SCORED_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""Layers whose weights and biases have a saliency."""

_TRANSPOSED: Sequence[Callable[..., Tensor]] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
"""By the number of axes of positions."""

_PARAMETRISED = "parametrizations."
"""Where torch keeps what a computed weight is computed from."""

NOT_USED = "the forward pass does not use this layer"

_AGREEMENT = 1e-3
"""Of a layer's largest output, in float32: far above rounding, far below what another formula gives."""


_TELL_SIZES = {nn.ConvTranspose1d.forward, nn.ConvTranspose2d.forward, nn.ConvTranspose3d.forward}
"""Forward passes with a second argument, the size of the outputs."""


class Call(NamedTuple):
    """What a layer was called with."""

    inputs: Tensor
    output_size: Sequence[int] | None = None
    """What a transposed convolution shall give, where its caller says so: its output_padding does not count then."""


def call_of(layer: nn.Module, given: Sequence[Any], named: Mapping[str, Any]) -> Call:
    """What hooks of a layer are told, as a call."""
    inputs = named["input"] if "input" in named else (*given, *named.values())[0]
    if not isinstance(layer, _ConvTransposeNd) or type(layer).forward not in _TELL_SIZES:
        return Call(inputs)  # a second argument of a forward pass of its own may mean anything
    size = named.get("output_size", given[1] if len(given) > 1 else None)
    return Call(inputs, size)


def scored_layers(module: nn.Module) -> dict[str, ScoredLayer]:
    """Every layer with a saliency by name; a module in several places counts once, by its first name.

    Raises:
        ModelError: there is none.
    """
    reasons = _reasons_in_structure(module)
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, SCORED_LAYERS) and name not in reasons
    }
    if not layers:
        listed = "".join(f"; {name or 'the network'}: {reason}" for name, reason in reasons.items())
        raise ModelError(f"the network has no convolution and no linear layer that could be pruned{listed}")
    return layers


def scored_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of the scored layers by parameter name, in the network's order."""
    return {
        parameter_name(name, kind): parameter
        for name, layer in scored_layers(module).items()
        for kind, parameter in layer.named_parameters(recurse=False)
    }


def unscored_layers(module: nn.Module, *, shape: Sequence[int] | None = None) -> dict[str, str]:
    """Every layer that holds weights and has no saliency, with the reason.

    What the structure does not tell shows in one pass over uniform noise: layers that are not called, that compute
    something else than their weight and bias say, or that no gradient of the logits comes back to.

    Args:
        module: not changed.
        shape: of the images, [B, C, H, W]; without it, only what the structure tells.

    Returns:
        Reasons by layer name, in the network's order.

    Raises:
        ModelError: the network has no layer to score, or does not run on such images.
    """
    reasons = _reasons_in_structure(module)
    if shape is not None:
        reasons |= _reasons_in_use(module, shape)
    return {name: reasons[name] for name, _ in module.named_modules() if name in reasons}


def listed_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every layer that holds weights, scored or not, in the network's order."""
    reasons = _reasons_in_structure(module)
    return {
        name: layer for name, layer in module.named_modules() if name in reasons or isinstance(layer, SCORED_LAYERS)
    }


def layers_to_keep(module: nn.Module, *, keep: Sequence[str], only: Sequence[str]) -> dict[str, str]:
    """Layers that a recipe takes out of pruning, with the reason.

    Args:
        module: not changed.
        keep: patterns as the shell has them, of names of layers or of what they are in.
        only: if there are any, all that they do not name is kept too.

    Raises:
        RecipeError: a pattern names no layer.
    """
    layers = listed_layers(module)
    named = {pattern: [name for name in layers if _is_named(name, pattern)] for pattern in (*keep, *only)}
    for pattern, found in named.items():
        if not found:
            setting = "keep" if pattern in keep else "only"
            raise RecipeError(
                f"prune.{setting}: {pattern!r} names no layer of this network; there are {', '.join(layers)}"
            )
    kept = {name: f"kept by prune.keep: {pattern}" for pattern in keep for name in named[pattern]}
    chosen = {name for pattern in only for name in named[pattern]}
    return kept | {name: "not among prune.only" for name in layers if only and name not in chosen}


def _is_named(name: str, pattern: str) -> bool:
    """Whether a pattern names this layer, or something that it is in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """A layer's parameters without those of the layers in it; what its weight is computed from counts as its own."""
    return {
        kind: parameter
        for kind, parameter in layer.named_parameters()
        if "." not in kind or kind.startswith(_PARAMETRISED)
    }


def parameter_name(layer: str, kind: str) -> str:
    """The network's name of a layer's parameter."""
    return f"{layer}.{kind}" if layer else kind


def rows_with_bias(values: Iterable[Tensor]) -> Tensor:
    """A linear layer's values [out, columns]: its weight's, and its bias's as the last column."""
    return torch.cat([value if value.dim() > 1 else value[:, None] for value in values], dim=1)


def linear_map(layer: ScoredLayer, call: Call, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's map with other weights; convolutions bring their own padding mode."""
    inputs = call.inputs
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    if isinstance(layer, _ConvTransposeNd):
        axes = len(layer.kernel_size)
        padding = [int(width) for width in layer.padding]
        stride, dilation = list(layer.stride), list(layer.dilation)
        size = None if call.output_size is None else list(call.output_size)
        extra = layer._output_padding(inputs, size, stride, padding, list(layer.kernel_size), axes, dilation)
        return _TRANSPOSED[axes - 1](inputs, weight, bias, stride, padding, extra, layer.groups, dilation)
    # The one place where torch applies padding_mode.
    outputs: Tensor = layer._conv_forward(inputs, weight, bias)
    return outputs


def by_output(layer: ScoredLayer, values: Tensor, like: Tensor) -> Tensor:
    """Values of output channels, [out], as a factor of the layer's weight or bias.

    A transposed convolution's weight is [in, out/groups, *kernel]: its inputs lie one group after the other, and column
    j of a group's rows is output j of that group.
    """
    if not isinstance(layer, _ConvTransposeNd) or like.dim() == 1:
        return per_output(values, like)
    columns = values.view(layer.groups, like.shape[1]).repeat_interleave(like.shape[0] // layer.groups, 0)
    return columns.view(*columns.shape, *[1] * (like.dim() - 2))


def _reasons_in_structure(module: nn.Module) -> dict[str, str]:
    """The reasons that can be seen without running the network."""
    owners: dict[nn.Parameter, list[str]] = {}
    for name, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(parameter, []).append(name)
    reasons: dict[str, str] = {}
    for name, layer in module.named_modules():
        inside_a_parametrisation = f".{name}".find(f".{_PARAMETRISED}") >= 0 or name.endswith("parametrizations")
        if not inside_a_parametrisation and (reason := _why_unscored(name, layer, owners)):
            reasons[name] = reason
    return reasons


def _why_unscored(name: str, layer: nn.Module, owners: dict[nn.Parameter, list[str]]) -> str:
    own = dict(layer.named_parameters(recurse=False))
    if not isinstance(layer, SCORED_LAYERS):
        weights = [kind for kind, parameter in own.items() if parameter.dim() > 1]
        return (
            f"no convolution and no linear layer, which alone have a saliency: {', '.join(weights)}" if weights else ""
        )
    if "weight_orig" in own and "weight_mask" in dict(layer.named_buffers(recurse=False)):
        return "its weight is masked by torch.nn.utils.prune; make that permanent with prune.remove(layer, 'weight')"
    if "weight" not in own:
        return "its weight is computed from other tensors (weight_norm, spectral_norm or another parametrisation)"
    if more := own.keys() - {"weight", "bias"}:
        return f"holds more than a weight and a bias: {', '.join(sorted(more))}"
    for kind, parameter in own.items():
        others = [other or "the network" for other in owners[parameter] if other != name]
        if others:
            return f"shares its {kind} with {', '.join(others)}"
    return ""


def _reasons_in_use(module: nn.Module, shape: Sequence[int]) -> dict[str, str]:
    """The reasons that show when the network runs; a copy does, as some networks count that."""
    module = copied(module)
    layers = scored_layers(module)
    reasons: dict[str, str] = {}
    called: set[str] = set()
    reached: set[str] = set()

    def watch(name: str) -> Callable[..., None]:
        def on_forward(layer: ScoredLayer, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            called.add(name)
            if not _is_its_map(layer, call_of(layer, inputs, named), output):
                reasons[name] = "its output is not that of its weight and bias (a forward pass of its own, or a hook)"
            if output.requires_grad:
                output.register_hook(lambda _: reached.add(name))  # type: ignore[no-untyped-call]

        return on_forward

    hooks = [layer.register_forward_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        used = _parameters_in_use(module, shape)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in called:
            without_call = "the forward pass uses its weight without calling the layer"
            reasons[name] = without_call if parameter_name(name, "weight") in used else NOT_USED
        elif name not in reached:
            reasons[name] = "no gradient of the logits comes back to its output"
    return reasons


def _parameters_in_use(module: nn.Module, shape: Sequence[int]) -> set[str]:
    """Names of the parameters that the logits of noise depend on."""
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in module.named_parameters()}
    first = next(iter(leaves.values()))
    noise = torch.rand(*shape, generator=torch_generator(0, "unscored")).to(first)
    try:
        with evaluating(module), torch.enable_grad(), torch_draws(0, "unscored"):
            logits = functional_call(module, leaves, (noise,))
    except USER_ERRORS as problem:
        raise ModelError(
            f"the network does not run on images of shape {list(shape)} ({describe(problem)}); give the shape of the "
            "data it was made for"
        ) from problem
    if not logits.requires_grad:
        return set()
    with torch.enable_grad():
        slopes = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    return {name for name, slope in zip(leaves, slopes, strict=True) if slope is not None}


@torch.no_grad()
def _is_its_map(layer: ScoredLayer, call: Call, output: Tensor) -> bool:
    expected = linear_map(layer, call, layer.weight, layer.bias)
    if expected.shape != output.shape:
        return False
    return bool((expected - output).abs().max() <= _AGREEMENT * expected.abs().max())
