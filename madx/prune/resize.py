"""A network in the shapes of its channel-pruned weights: how a pruned network is loaded again.

A state is a state dict: tensors by the network's own names, in the pruned shapes. What is no tensor follows from them:
sizes that layers keep for themselves, and the number of heads that an attention module keeps (`heads`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from madx.errors import ModelError
from madx.prune.heads import numbers_after


def resize_to_(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every layer the shape of its entry in `state`, and load `state` (strict).

    Device and precision stay those of the module.

    Raises:
        ModelError: `state` does not belong to a channel-pruned version of this network; the module is as it was.
    """
    _check_fits(module, state)
    numbers = numbers_after(module, state)
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        for kind, parameter in layer.named_parameters(recurse=False):
            value = state[prefix + kind]
            if value.shape != parameter.shape:
                setattr(layer, kind, nn.Parameter(value.to(parameter).clone(), parameter.requires_grad))
        for kind, buffer in layer.named_buffers(recurse=False):
            if prefix + kind in state and state[prefix + kind].shape != buffer.shape:
                setattr(layer, kind, state[prefix + kind].to(buffer).clone())
        _update_sizes_(layer)
    for name, attribute, number in numbers:
        setattr(module.get_submodule(name), attribute, number)
    module.load_state_dict(dict(state))


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel is convolved by itself, so that channels can go one by one."""
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _check_fits(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Removal of channels changes no name, no number of dimensions and no kernel, and makes nothing larger."""
    own = module.state_dict()
    kernels = {f"{name}.weight".lstrip(".") for name, layer in module.named_modules() if isinstance(layer, _ConvNd)}
    if own.keys() != state.keys():
        difference = sorted(own.keys() ^ state.keys())
        raise ModelError(f"the pruned weights do not belong to this network: {', '.join(difference[:5])} differ")
    for name, tensor in own.items():
        before, after = tuple(tensor.shape), tuple(state[name].shape)
        smaller = len(before) == len(after) and all(1 <= now <= was for now, was in zip(after, before, strict=True))
        if before != after and not (smaller and (name not in kernels or before[2:] == after[2:])):
            raise ModelError(
                f"the pruned weights do not belong to this network: {name} has shape {list(after)}, and no removal of "
                f"channels from {list(before)} gives that"
            )


def _update_sizes_(layer: nn.Module) -> None:
    """Make a layer's attributes agree with the shapes of its tensors."""
    if isinstance(layer, _ConvNd):
        depthwise = is_depthwise(layer)
        inputs, outputs = layer.weight.shape[:2] if layer.transposed else layer.weight.shape[1::-1]
        if depthwise:
            layer.groups = layer.in_channels = layer.out_channels = layer.weight.shape[0]
        elif layer.transposed:
            layer.in_channels, layer.out_channels = inputs, outputs * layer.groups
        else:
            layer.in_channels, layer.out_channels = inputs * layer.groups, outputs
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase) and (tensor := _first(layer.weight, layer.running_mean)) is not None:
        layer.num_features = tensor.shape[0]
    elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
        layer.num_channels = layer.weight.shape[0]
    elif hasattr(layer, "normalized_shape") and isinstance(weight := getattr(layer, "weight", None), Tensor):
        vars(layer)["normalized_shape"] = tuple(weight.shape)  # LayerNorm, RMSNorm, and what people write like them
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.shape[0]


def _first(*tensors: Tensor | None) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor is not None), None)
