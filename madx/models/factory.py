"""The user's own network: the factory named in the recipe is called once, and its network tried before use.

Images are float32 [B, C, H, W] in [0, 1]; logits must be floating point [B, K].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.copies import copied
from madx.plugins import USER_ERRORS, describe, load_callable

_TRIAL_BATCH = 2
"""Images of the trial: more than one, so that a network that loses the batch axis is found out."""
_WRAP = "Let the factory return a module around it whose forward gives the logits alone."


def from_factory(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import and call a factory.

    Args:
        name: model.factory, 'module:callable'.
        arguments: model.args without `normalise`, passed as keywords.

    Raises:
        ModelError: It cannot be imported, raises, or returns something else than a torch.nn.Module.
    """
    factory = load_callable(name, error=ModelError)
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"
    try:
        network = factory(**arguments)
    except USER_ERRORS as problem:
        raise ModelError(
            f"model.factory: {name}, called with {given} from model.args, failed with {describe(problem)}."
        ) from problem
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model.factory: {name} returned {type(network).__name__}, expected a torch.nn.Module"
            " that takes images in [0, 1]."
        )
    network = _unwrapped(network, name)
    _check_handled(network, name)
    return network


def _check_handled(network: nn.Module, name: str) -> None:
    """Try a copy, and a change of its mode, which every stage makes; complex numbers would lose a half in a cast.

    Raises:
        ModelError: That does not work, or it has complex weights.
    """
    try:
        copied(network).train().eval()
    except USER_ERRORS as problem:
        raise ModelError(
            f"model.factory: the network of {name} cannot be copied, or switched between training and evaluation"
            f" ({describe(problem)}), and every stage does that. Make locks, open files and the like where they are"
            " used, not in the network; of a program that torch.export made, return the Python network."
        ) from problem
    values = [*network.named_parameters(), *network.named_buffers()]
    if odd := [key for key, value in values if value.dtype.is_complex]:
        raise ModelError(
            f"model.factory: the network of {name} keeps complex numbers ({', '.join(odd[:5])}), and madx works in real"
            " ones: keep torch.view_as_real of them, [..., 2], and use torch.view_as_complex in the forward."
        )


def _unwrapped(network: nn.Module, name: str) -> nn.Module:
    """The network without what torch.compile or training on several devices has put around it, or around a part of it.

    Raises:
        ModelError: It is TorchScript.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(
            f"model.factory: {name} returned a TorchScript network, whose layers are no torch layers any more: they"
            " cannot be pruned or trained. Return the Python network, before torch.jit.trace or torch.jit.script."
        )
    while inner := _wrapped(network):
        network = inner
    for kind, part in network._modules.items():
        if part is not None:
            network._modules[kind] = _unwrapped(part, name)
    network._compiled_call_impl = None  # what network.compile() leaves
    return network


def _wrapped(network: nn.Module) -> nn.Module | None:
    """What is inside a wrapper, or nothing; torch.compile's class is known by name, as importing it takes seconds."""
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inside: nn.Module = network.module
        return inside
    if type(network).__name__ == "OptimizedModule":
        original: nn.Module = network._orig_mod  # type: ignore[assignment]
        return original
    return None


def check_network(network: nn.Module, *, name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Run a network once on zeros, forward and backward, so that nothing about it fails in a later stage.

    Raises:
        ModelError: It fails on images of `shape`, gives something else than float logits [2, classes], cannot be
            differentiated, or keeps state other than tensors, which a weights file cannot hold.
    """
    images = torch.zeros(_TRIAL_BATCH, *shape)
    try:
        with torch.no_grad():
            logits = network(images)
    except USER_ERRORS as problem:
        raise ModelError(
            f"model.factory: the network of {name} failed on a float32 batch {list(images.shape)},"
            f" the shape of the data's images, with {describe(problem)}."
            " What image files become, data.image_size and data.channels (1: grey) say. Its forward must take such"
            " images as its only argument: where it takes more, or other types, let the factory return a module around"
            " it."
        ) from problem
    wanted = f"expected floating-point logits {[_TRIAL_BATCH, classes]} for a batch {list(images.shape)}"
    if not isinstance(logits, Tensor):
        raise ModelError(f"model.factory: the network of {name} gives {type(logits).__name__}; {wanted}. {_WRAP}")
    if list(logits.shape) != [_TRIAL_BATCH, classes] or not logits.is_floating_point():
        given = f"{str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}"
        raise ModelError(f"model.factory: the network of {name} gives {given}; {wanted}. {_WRAP}")
    _check_gradients(network, images, name)
    odd = [key for key, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(
            f"model.factory: the network of {name} keeps {', '.join(map(repr, odd[:5]))} in its state_dict,"
            " which is no tensor and so has no place in a weights file; make it a buffer or a plain"
            " attribute."
        )


def _check_gradients(network: nn.Module, images: Tensor, name: str) -> None:
    """Try the backward pass, which training and saliencies need."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        with torch.enable_grad():
            logits = network(images)
            if parameters and logits.requires_grad:
                torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    except USER_ERRORS as problem:
        raise ModelError(
            f"model.factory: the network of {name} runs forward, and its backward pass fails with {describe(problem)}."
            " Operations that change a tensor in place are the usual reason: write x = x * y instead of x *= y."
        ) from problem
