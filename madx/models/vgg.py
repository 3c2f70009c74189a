"""VGG-16 with BatchNorm (Simonyan and Zisserman 2015) for small images.

Images are [B, C, H, W] in [0, 1]; logits are [B, K]. State-dict keys are those of the common CIFAR ports:
features.0 ... features.41 and classifier. Its convolutions have biases, redundant before BatchNorm, because
the published networks have them and their files must load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.arguments import Size
from madx.models.layers import conv3x3, kaiming_

_CONVOLUTIONS = (2, 2, 3, 3, 3)
"""How many convolutions each of the five stages has; a 2x2 max pooling ends each stage."""
_SMALLEST = 16
"""Height and width that four poolings leave one position of."""


class VGG(nn.Module):
    """Stages of conv-bn-relu that end in pooling, the mean over positions and one linear classifier.

    The fifth pooling is there for 32 pixels and more. From 16 to 31 (28, for example) a single position is
    left before it, so there is nothing to pool; its absence changes no key.
    """

    def __init__(self, channels: int, classes: int, *, widths: Sequence[int], size: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        layers: list[nn.Module] = []
        for width, count in zip(widths, _CONVOLUTIONS, strict=True):
            for _ in range(count):
                layers += [conv3x3(channels, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if size > 1:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            size //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to logits [B, K]."""
        logits: Tensor = self.classifier(self.features(self.norm(x)).mean(dim=(2, 3)))
        return logits


def vgg16_bn(
    shape: tuple[int, int, int],
    classes: int,
    *,
    widths: tuple[Size, Size, Size, Size, Size] = (64, 128, 256, 512, 512),
) -> nn.Module:
    """Thirteen convolutions in five stages of the given widths.

    Raises:
        ModelError: The images are smaller than 16x16, which four poolings need.
    """
    channels, height, width = shape
    if min(height, width) < _SMALLEST:
        raise ModelError(
            f"model.name: vgg16_bn halves the image four times, so it needs images of {_SMALLEST}x{_SMALLEST}"
            f" or more; these are {height}x{width}. Take resnet8 or resnet18, which work at any size, or"
            " larger images."
        )
    return VGG(channels, classes, widths=widths, size=min(height, width))
