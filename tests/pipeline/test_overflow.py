"""An export in float16 is tried where its range ends, and what does not hold is an error that names the node."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.errors import ExportError
from madx.pipeline import exporting
from madx.pipeline.overflow import extreme_images
from madx.recipe import EngineConfig, Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

SHAPE = (1, 8, 8)


class Brightness(nn.Module):
    """A linear classifier; what it adds is zero but where images are very bright: float16 overflows there alone."""

    def __init__(self, *, from_: float = 0.95, times: float = 1e4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Linear(64, 10)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(10, 64, generator=generator))
        self.threshold, self.times = from_, times

    def forward(self, x):
        flat = x.flatten(1)
        bright = (flat.mean(1, keepdim=True) - self.threshold).relu() * self.times * 1000
        return self.head(flat) + bright / 1000 / self.times


def context_of(images: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
    """As much of a run as comparing an export wants."""
    recipe = Recipe.model_validate({"train": {}, "threat": {"eps": 0.05}})
    selection = SimpleNamespace(tensors=lambda start=0, stop=None: (images[start:stop], labels[start:stop]))
    selection.take = lambda _: selection
    return SimpleNamespace(recipe=recipe, splits=SimpleNamespace(selection=selection), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def context() -> SimpleNamespace:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((24, *SHAPE), generator=generator)
    return context_of(images, torch.arange(24) % 10)


def compared(context: SimpleNamespace, module: nn.Module) -> dict:
    artifact = export_onnx(module.eval(), SHAPE, opset=20, precision="fp16")
    return exporting._compared(context, module, artifact)


def test_an_overflow_on_white_images_alone_is_an_error_that_names_node_and_remedy(context: SimpleNamespace) -> None:
    module = Brightness()
    artifact = export_onnx(module.eval(), SHAPE, opset=20, precision="fp16")
    white = extreme_images(SHAPE)["white"]
    with closing(backend("ort-cpu").load(artifact.payload, EngineConfig(precision="fp16", threads=1))) as engine:
        assert np.isfinite(engine(white)).all(), "the CPU hides it, so nothing but the rounded graph can tell"
    with pytest.raises(ExportError, match="infinite on 1 of 1 images") as caught:
        exporting._compared(context, module, artifact)
    for words in ("(white)", "first node whose output overflows", "(Mul)", "65504", "precision: fp32"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_logit_that_is_wrong_without_overflow_is_an_error_too(context: SimpleNamespace) -> None:
    """A factor beyond the range was clamped: every number is finite, and the network is another."""

    class Clamped(Brightness):
        def forward(self, x):
            return self.head(x.flatten(1)) * (x.flatten(1).sum(1, keepdim=True) * 1e-6 * 1e6)

    with pytest.raises(ExportError, match="differ from torch's by up to") as caught:
        compared(context, Clamped())
    assert "no node overflows there" in str(caught.value)
    assert "1 constants beyond float16's range were set to 65504" in str(caught.value)


def test_what_holds_is_recorded_with_what_was_tried(context: SimpleNamespace) -> None:
    found = compared(context, Brightness(times=1e-3))
    assert set(found["rounded_images"]) == {
        *("clean", "adversarial", "attacked without a bound"),
        *("black", "white", "checkerboard", "random black and white"),
    }
    assert 0 < found["rounded_apart"] <= 1
    assert (found["undefined_in_torch"], found["notes"]) == (0, [])


@pytest.mark.slow
def test_where_torch_has_no_number_either_precision_is_not_blamed(context: SimpleNamespace) -> None:
    class Standardised(Brightness):
        def forward(self, x):
            flat = x.flatten(1)
            return self.head((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True))

    assert compared(context, Standardised())["undefined_in_torch"] == 2, "black and white have no deviation"


def test_extreme_images_are_images_and_reach_both_ends() -> None:
    for shape in (SHAPE, (3, 5, 7)):
        for images in extreme_images(shape).values():
            assert images.shape[1:] == shape
            assert (images.dtype, set(np.unique(images)) <= {0.0, 1.0}) == (np.float32, True)
