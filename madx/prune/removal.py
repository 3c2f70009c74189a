"""From scores to the pruned network: one rule for each structure that a recipe can ask for.

The same rule decides what goes in the end and what would go by half of the batches, so that a saliency is called
settled by the decision that hangs on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from madx.errors import RecipeError
from madx.models.copies import copied
from madx.prune.channel_masks import ChannelMasks
from madx.prune.coupling import MAKES_OUTPUTS
from madx.prune.groups import ChannelGroup, masks_without
from madx.prune.layers import layers_to_keep, listed_layers, scored_parameters, unscored_layers
from madx.prune.masks import apply_masks_, two_four_masks, unstructured_masks
from madx.prune.resize import resize_to_
from madx.prune.structure import Survivors, coverage, survivor_masks
from madx.prune.trials import channel_groups, without_channels
from madx.recipe import PruneConfig

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Removal:
    """What a rule left of the dense network."""

    module: nn.Module
    """The pruned network, on the CPU: smaller where channels went, with the removed entries at zero."""
    held: Masks
    """In the pruned network's shapes: what fine-tuning must keep at zero."""
    masks: Masks
    """In the dense network's shapes: all that is kept. A parameter without a mask is whole."""
    reasons: dict[str, str]
    """Why layers stayed whole, by name."""
    channels: tuple[int, int] | None = None
    """Output channels before and after, over the layers that do not make the network's outputs; None if none may go."""


class Rule:
    """A recipe's structure at its sparsity, for one network: what depends on the network alone is found once.

    Scores are float32 for every parameter that can be scored, on any device; other layers are listed and stay whole.
    Groups of channels may have scores of their own (`ChannelMasks`), which then decide.

    Raises:
        ModelError: channels cannot be removed from this network, or scores are missing.
    """

    def __init__(self, dense: nn.Module, config: PruneConfig, *, example: Tensor) -> None:
        """Prepare.

        Args:
            dense: on the CPU; neither changed here nor to be changed while the rule is in use.
            config: structure, sparsity and round_to.
            example: images [B, C, H, W] to trace channels with.
        """
        self.dense, self.config, self.example = dense, config, example
        self.unscored = unscored_layers(dense, shape=example.shape)
        self.kept = layers_to_keep(dense, keep=config.keep, only=config.only)
        self._whole = {**self.kept, **self.unscored}
        self._agreed: set[tuple[tuple[int, ...], ...]] = set()
        """Channels whose removal was checked: nothing else of what is compared changes while the rule is in use."""

    def remove(self, scores: Mapping[str, Tensor]) -> Removal:
        """Apply the rule to a copy of the dense network."""
        config = self.config
        masks: Masks = {}
        held: Masks = {}
        channels = None
        if removes_channels(config):
            module, survivors, reasons = self._without_channels(scores)
            masks = survivor_masks(survivors, self.dense)
            channels = _channel_counts(self.dense, module, reasons)
            scores = {
                name: score.cpu().flatten()[survivors[name]] for name, score in scores.items() if name in survivors
            }
        else:
            module, reasons = copied(self.dense), dict(self._whole)
        if config.structure == "unstructured":
            held = masks = unstructured_masks(module, scores, config.sparsity, unscored=self._whole)
        elif config.structure in ("2:4", "channels+2:4"):
            held, dense_layers = two_four_masks(module, scores, unscored=self._whole)
            reasons = reasons | dense_layers
            masks = _combined(masks, held) if masks else held
        apply_masks_(module, held)
        return Removal(module, held, masks, reasons, channels)

    def rehearse(self) -> None:
        """Remove the smallest weights of a copy: whether anything of this network can go shows without any saliency.

        Raises:
            ModelError: its channels cannot be followed.
            RecipeError: nothing can go.
        """
        magnitudes = {name: parameter.detach().abs() for name, parameter in scored_parameters(self.dense).items()}
        self.check(self.remove(magnitudes))

    def check(self, removal: Removal) -> None:
        """A run in which nothing is pruned would compare a network with itself.

        Raises:
            RecipeError: nothing was removed; every layer is named with the reason.
        """
        if any(not mask.all() for mask in removal.masks.values()):
            return
        config = self.config
        layers: dict[str, list[str]] = {}
        for name in listed_layers(self.dense):
            reason = removal.reasons.get(name, f"{config.sparsity:g} of its weights is less than a whole one")
            layers.setdefault(reason, []).append(name or "the network")
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in layers.items())
        lower = ", a lower prune.round_to" if removes_channels(config) else ""
        raise RecipeError(
            f"prune.structure: {config.structure} at prune.sparsity: {config.sparsity:g} removes nothing of this "
            f"network ({told}); choose a higher prune.sparsity{lower}, another prune.structure, or a larger network"
        )

    def masks(self, scores: Mapping[str, Tensor]) -> Masks:
        """`remove(scores).masks` without the network, and much faster; on the scores' device or on the CPU."""
        if self.config.structure == "unstructured":
            return unstructured_masks(self.dense, scores, self.config.sparsity, unscored=self._whole)
        if self.config.structure == "2:4":
            return two_four_masks(self.dense, scores, unscored=self._whole)[0]
        if self.config.structure == "channels":
            shapes = {name: parameter.shape for name, parameter in scored_parameters(self.dense).items()}
            return masks_without(self.groups[0], scores, shapes)
        return self.remove(scores).masks

    def channel_masks(self, scores: Mapping[str, Tensor]) -> ChannelMasks:
        """Of the groups of channels that the rule chooses from; it was checked that they act as removal does.

        Args:
            scores: with which the check removes channels.
        """
        masks = ChannelMasks(self.dense, self.groups[0])
        pruned, _, _ = self._without_channels(scores)
        masks.check(self.dense, pruned, scores, shape=self.example.shape)
        return masks

    def _without_channels(self, scores: Mapping[str, Tensor]) -> tuple[nn.Module, Survivors, dict[str, str]]:
        """A copy of the dense network without the channels of lowest score, its survivors, and why layers are whole."""
        groups, reasons = self.groups
        on_cpu = {name: score.cpu() for name, score in scores.items()}
        decision = tuple(tuple(group.removed(on_cpu)) for group in groups)
        again = decision in self._agreed
        state, survivors = without_channels(self.dense, groups, on_cpu, shape=self.example.shape, agreed=again)
        self._agreed.add(decision)
        module = copied(self.dense)
        resize_to_(module, state)
        return module, survivors, reasons

    @cached_property
    def groups(self) -> tuple[list[ChannelGroup], dict[str, str]]:
        """Every group of channels of which some go, and why layers stay whole, by name."""
        share = self.config.sparsity, self.config.round_to
        return channel_groups(self.dense, *share, example=self.example, unscored=self.unscored, kept=self.kept)


def removes_channels(config: PruneConfig) -> bool:
    """Whether the structure takes whole channels, with or without 2:4."""
    return config.structure in ("channels", "channels+2:4")


def _channel_counts(dense: nn.Module, pruned: nn.Module, reasons: Mapping[str, str]) -> tuple[int, int]:
    inner = [layer for layer in coverage(dense, pruned, {}, reasons).layers if layer.reason != MAKES_OUTPUTS]
    before = sum(_outputs(dense.get_submodule(layer.name), layer.shape_before) for layer in inner)
    return before, sum(_outputs(pruned.get_submodule(layer.name), layer.shape_after) for layer in inner)


def _outputs(layer: nn.Module, shape: Sequence[int]) -> int:
    """Output channels of a layer whose weight has this shape; a transposed convolution's has its inputs first."""
    return layer.out_channels if isinstance(layer, _ConvTransposeNd) else shape[0]


def _combined(channels: Masks, held: Masks) -> Masks:
    """Masks in the dense shapes: of the entries that `channels` keeps, in order, those that `held` keeps."""
    combined = dict(channels)
    for name, mask in held.items():
        whole = channels[name].clone()
        whole[channels[name]] = mask.flatten()
        combined[name] = whole
    return combined
