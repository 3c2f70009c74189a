"""How a network is trained, and fine-tuned after pruning: sections of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from madx.recipe.section import Section
from madx.recipe.threat import AttackConfig
from madx.recipe.values import Count, Number, Share


class LoopConfig(Section):
    """The training loop, used from scratch and for fine-tuning after pruning."""

    method: Literal["pgd", "fgsm", "clean"] = "pgd"
    """pgd: multi-step examples; fgsm: one step of 1.25 eps from a random start, guarded against collapse; clean: no
    examples, for ordinary networks; a robust one loses robustness to it, which clean accuracy does not show."""
    loss: Literal["ce", "trades", "mart"] = "ce"
    """ce: cross-entropy; trades: Zhang et al. 2019; mart: Wang et al. 2020, as in the MAD paper."""
    beta: Annotated[Number, Field(ge=0)] = 0.5
    """Weight of the consistency term of trades and mart."""
    attack: AttackConfig = AttackConfig(steps=5, relative_step=2.5)
    """Examples of method pgd."""
    epochs: Annotated[Number, Field(gt=0)] = 15
    """Passes over the training split; fractions are allowed."""
    batch_size: Count | None = None
    """Images a step; null: 128, or all training images where there are fewer."""
    lr: Annotated[Number, Field(gt=0)] = 0.1
    """Peak learning rate of SGD."""
    schedule: Literal["onecycle", "step", "constant"] = "onecycle"
    """onecycle: linear up for warmup, then linear down to 0; step: times 0.1 at 50 % and 75 %."""
    warmup: Share = 0.2
    """Share of the steps in which onecycle rises."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of momentum."""
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    """Decay of weights with two or more dimensions; biases and BatchNorm have none."""
    augment: Literal["none", "crop", "flip-crop"] = "flip-crop"
    """crop: zero-pad by an eighth and crop back at random; flip: mirror half of the images. Flip only what keeps its
    label when mirrored: clothes and animals do, digits, signs and text do not."""
    average: Share = 0.998
    """Decay per step of the weight average that is kept and evaluated; 0 keeps the last weights instead."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training passes: auto takes what was measured to be fastest on this machine; bf16 is autocast. Evaluation
    is always float32."""
    evaluations: Count = 10
    """How often it is measured on the selection split; the best robust (method clean: clean) accuracy is kept."""
    patience: Count | None = None
    """Evaluations in a row that may bring no gain before training ends early; without it, every step is made."""
    selection_attack: AttackConfig = AttackConfig(steps=10)
    """Attack of these evaluations."""
    selection_images: Count = 1000
    """How many images of the selection split they use; all where there are fewer."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if self.method != "pgd" and self.loss != "ce":
            raise ValueError(f"method: {self.method} trains with loss: ce, not with {self.loss}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class TrainConfig(LoopConfig):
    """Training of the dense network; leave the section out to use model.weights as they are."""


class FinetuneConfig(LoopConfig):
    """Fine-tuning of the pruned network with its masks held."""

    epochs: Annotated[Number, Field(gt=0)] = 2
    """Passes over the training split; fractions are allowed."""
    lr: Annotated[Number, Field(gt=0)] = 0.05
    """Peak learning rate of SGD."""
    average: Share = 0.99
    """Decay per step of the weight average that is kept and evaluated; 0 keeps the last weights instead."""
    evaluations: Count = 3
    """How often it is measured on the selection split; the best robust (method clean: clean) accuracy is kept."""
