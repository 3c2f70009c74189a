"""What a training step minimises, as a module: DistributedDataParallel wants one forward pass a step."""

from __future__ import annotations

from torch import Tensor, nn

from madx.models.precision import PLAIN, ComputeFormat
from madx.recipe import LoopConfig
from madx.train.losses import LOSSES


class Objective(nn.Module):
    """The configured loss of a network, averaged over a batch."""

    def __init__(self, network: nn.Module, config: LoopConfig, format: ComputeFormat = PLAIN) -> None:
        super().__init__()
        self.network, self.config, self.format = network, config, format

    def forward(self, adversarial: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
        """Loss of adversarial and clean images [B, ...] with labels [B]; the clean ones are used if the loss asks.

        Method clean gives its images as both.
        """
        loss = LOSSES[self.config.loss]
        with self.format.autocast(clean.device):
            logits = self.network(adversarial)
            reference = self.network(clean) if loss.wants_clean else logits
        return loss(logits.float(), reference.float, labels, self.config.beta)
