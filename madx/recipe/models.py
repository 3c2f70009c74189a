"""The sections of a recipe. A field's description is also its comment in `madx init` and in the JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from madx.recipe.gates import GateConfig, LatencyConfig
from madx.recipe.section import Section
from madx.recipe.threat import AttackConfig, ThreatConfig
from madx.recipe.values import (
    Arguments,
    ClassName,
    Count,
    CountOrAuto,
    FactoryName,
    ImageCount,
    Integer,
    Number,
    Share,
    not_bool,
)

RECIPE_VERSION = 1
KINDS_OF_ATTACK = ("suite", "pgd")
"""Names that pydantic puts into the place of an error; a recipe has no such keys."""


class DataConfig(Section):
    """Where images come from and how they are split."""

    name: Literal["fashion-mnist", "digits", "cifar10", "cifar100", "svhn", "imagefolder", "npz", "factory"] = (
        "fashion-mnist"
    )
    """Which reader."""
    path: Path | None = None
    """Folder (npz: file) of the data; without it $MADX_DATA/<name>, ./datasets/<name>, or the system's."""
    factory: FactoryName | None = None
    """For name: factory, a 'module:callable' that returns {'train': (images, labels), 'test': (images, labels)}."""
    image_size: Count | None = None
    """For imagefolder: images are resized (shorter side) and centre-cropped to this many pixels."""
    classes: list[ClassName] | None = None
    """Names of the classes in the order of the network's outputs; for imagefolder the names of their folders, which are
    sorted without it. Classes without images are allowed."""
    class_map: Path | None = None
    """The same names in a file, one a line."""
    num_classes: Annotated[Integer, Field(ge=2)] | None = None
    """For npz and factory: how many classes there are; null: the largest training label plus one."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """For imagefolder, npz and factory. bgr: the first and the last of three channels are exchanged before the network
    sees them, because OpenCV saved the arrays, or because the network was trained on what OpenCV reads."""
    selection: Count | None = None
    """Images of the training set that choose and calibrate, not to train on; null: a tenth of it, at most 2000."""
    gate: ImageCount | None = None
    """How many images of the test set the gate measures on, in a seeded random order; without it, all."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if (self.name == "factory") != (self.factory is not None):
            raise ValueError("data.factory belongs to data.name: factory, and each needs the other")
        if self.name == "imagefolder" and self.image_size is None:
            raise ValueError("data.name: imagefolder needs data.image_size")
        if self.name != "imagefolder" and self.image_size is not None:
            raise ValueError("data.image_size belongs to data.name: imagefolder")
        if self.name in ("imagefolder", "npz") and self.path is None:
            raise ValueError(f"data.name: {self.name} needs data.path")
        if self.name in ("digits", "factory") and self.path is not None:
            raise ValueError(f"data.name: {self.name} reads no files, so data.path has no place here")
        self._check_classes()
        if self.channel_order != "rgb" and self.name not in ("imagefolder", "npz", "factory"):
            raise ValueError(
                f"data.name: {self.name} has channels in an order of its own; leave out data.channel_order"
            )
        return self

    def _check_classes(self) -> None:
        given = [key for key in ("classes", "class_map", "num_classes") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"data.{given[0]} and data.{given[1]} say the same; give one of them")
        if given and self.name not in ("imagefolder", "npz", "factory"):
            raise ValueError(f"data.name: {self.name} has classes of its own, so data.{given[0]} has no place here")
        if self.num_classes is not None and self.name == "imagefolder":
            raise ValueError("data.name: imagefolder takes data.classes, the folders' names, for data.num_classes")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("data.classes lists at least two names, each once, in the order of the network's outputs")


class ModelConfig(Section):
    """The network. Normalisation is inside it, so that it takes images in [0, 1]."""

    name: Literal["resnet8", "resnet18", "vgg16_bn", "wrn28_10", "factory"] = "resnet8"
    """Which architecture."""
    factory: FactoryName | None = None
    """For name: factory, a 'module:callable' that returns a torch.nn.Module taking images in [0, 1]."""
    args: Arguments = Field(default_factory=dict)
    """Keyword arguments of the architecture or factory, for example {widths: [64, 128, 128]}."""
    weights: Path | None = None
    """A .safetensors or .pt (tensors only) file to start from; keys must match exactly."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if (self.name == "factory") != (self.factory is not None):
            raise ValueError("model.factory belongs to model.name: factory, and each needs the other")
        return self


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


class LearningConfig(Section):
    """How the criteria that learn their scores (mad, hydra) do so; the others ignore it."""

    steps: Count = 100
    """Steps of the scores; each takes a batch of prune.batch_size images, attacked on the network as pruned by then."""
    attack: AttackConfig = AttackConfig(steps=3, relative_step=2.5)
    """These examples."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the passes; auto takes what was measured to be fastest on this machine."""


class PruneConfig(Section):
    """Saliency, structure, BatchNorm recalibration and fine-tuning."""

    criterion: Literal["mad", "mad-paper", "mad-reversed", "taylor", "obd", "hydra", "magnitude", "random"] = "mad"
    """How entries are ranked. mad: masks learned under the budget, from second-order adversarial damage on; mad-paper:
    Lee, Kim, Ro, CVPR 2022; taylor and obd: first- and second-order damage; hydra: masks learned from the magnitude on;
    magnitude, random and mad-reversed are baselines and controls. Where whole channels go, what is learned is a mask
    of channels."""
    batches: CountOrAuto = 40
    """Batches of training images that the saliency is averaged over; auto takes more until what is kept has settled."""
    settled: Annotated[Share, Field(gt=0)] = 0.9
    """The kept set has settled when those of the even and of the odd batches alone overlap by this share (Jaccard) at
    two looks in a row."""
    max_batches: Annotated[Integer, Field(ge=2)] = 256
    """With batches: auto, the most that are taken; the report says whether the kept set had settled by then."""
    batch_size: Count | None = None
    """Images a saliency batch; null: 128, or all training images where there are fewer."""
    attack: AttackConfig = AttackConfig(steps=10)
    """Examples the saliency is computed on."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the masks of mad-paper and mad-reversed: bf16 takes half the time and ranks a little differently (at 90 %
    removed, 99.6 % of what is removed is the same on the reference network)."""
    learning: LearningConfig = LearningConfig()
    """Masks under the budget, of channels where whole channels go, for the criteria mad and hydra."""
    structure: Literal["unstructured", "channels", "2:4", "channels+2:4"] = "channels"
    """What is removed: single weights, whole channels, two of every four input channels at each position, or both."""
    sparsity: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    """Share removed: of the weights (unstructured), of the channels of every layer (channels); 2:4 is always 0.5."""
    round_to: Count = 16
    """Channel counts are kept at multiples of this, as vector units and tensor cores want them."""
    recalibration_batches: Annotated[Integer, Field(ge=0)] = 8
    """Batches that BatchNorm's statistics are recomputed on before fine-tuning; 0 leaves them."""
    recalibration: Literal["adversarial", "clean"] = "adversarial"
    """Their images: prune.attack's examples, or clean ones, which bring clean accuracy back and robustness not."""
    recalibration_rounds: Count = 2
    """Times that adversarial recalibration is repeated, each with examples made on the network of the round before."""
    finetune: FinetuneConfig | None = FinetuneConfig()
    """Fine-tuning; null leaves the pruned network as it is."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if self.precision == "bf16" and self.criterion not in ("mad-paper", "mad-reversed"):
            raise ValueError(f"prune.precision: bf16 is for mad-paper and mad-reversed, not for {self.criterion}")
        if self.structure == "2:4" and self.sparsity != 0.5:
            raise ValueError(
                f"prune.structure: 2:4 removes exactly half; prune.sparsity is {self.sparsity:g}, set it to 0.5"
            )
        return self


class EngineConfig(Section):
    """One engine to build from the dense and from the pruned ONNX file."""

    kind: Literal["ort-cpu", "ort-cuda", "openvino-cpu", "tensorrt", "tensorrt-rtx"] = "ort-cpu"
    """Which runtime."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Precision of the ONNX file the engine is built from (engines are strongly typed)."""
    threads: Count | None = None
    """CPU engines: intra-op threads; without it, the machine's physical cores."""
    max_batch: Count = 128
    """Largest batch of the optimisation profile (TensorRT); the optimum is verify.latency's batch."""
    verify: bool = True
    """Whether the gates are measured on this engine; an engine with verify: false is built and recorded only."""

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.kind in ("ort-cuda", "tensorrt", "tensorrt-rtx")

    @property
    def name(self) -> str:
        """The engine's name in the run directory and in the report, for example 'tensorrt-rtx-fp16'."""
        return f"{self.kind}-{self.precision}"


class ExportConfig(Section):
    """ONNX files and engines."""

    opset: Annotated[Integer, Field(ge=18, le=23)] = 20
    """ONNX operator set."""
    parity_images: ImageCount = 256
    """Selection images (all where there are fewer) on which the ONNX file is compared with the torch network."""
    engines: tuple[EngineConfig, ...] = (EngineConfig(),)
    """Engines to build. One that cannot be built here ends the run with exit code 3."""

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [engine.name for engine in self.engines]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"export.engines lists {name} twice")
        if not names:
            raise ValueError("export.engines is empty; name at least one engine, for example {kind: ort-cpu}")
        return self


class VerifyConfig(Section):
    """Measurements on the deployed engines and the gates that judge them."""

    attack: Annotated[
        Annotated[Literal["quick", "standard", "paranoid"], Tag(KINDS_OF_ATTACK[0])]
        | Annotated[AttackConfig, Tag(KINDS_OF_ATTACK[1])],
        Discriminator(lambda value: KINDS_OF_ATTACK[not isinstance(value, str)]),
    ] = "standard"
    """Attacks on both engines, with the same budget for both: quick, standard or paranoid (docs/attacks.md says what
    they are and cost), or {steps: 20} for PGD on the torch twins alone, which cannot notice masked gradients."""
    eight_bit: bool = False
    """Whether what still stands meets the last examples once more, rounded to 8-bit pixels as in a file."""
    images: ImageCount | None = None
    """How many of the gate images are attacked; without it, all."""
    chunk: Count = 250
    """Images attacked at a time; a killed verification continues at the chunk it was in."""
    sequential: bool = False
    """Whether the gates may look after every chunk and stop early; limits are then those of the betting test, valid
    however often one looks."""
    batches: tuple[Count, ...] | None = None
    """Images a call at which an engine must answer alike, whatever stands beside an image; null: 1, verify.latency's
    batch and the engine's largest."""
    latency: LatencyConfig = LatencyConfig()
    """Timing of the engines."""
    gates: tuple[GateConfig, ...] = (
        GateConfig(metric="speedup", at_least=1.5),
        GateConfig(metric="robust_drop", at_most=0.03),
    )
    """All must pass. Metrics: speedup, robust_accuracy, clean_accuracy, retention (at_least); p99_ratio, robust_drop,
    clean_drop, worst_class_drop, parity_flips, size_ratio (at_most); confidence defaults to 0.95."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.gates:
            raise ValueError("verify.gates is empty; a verdict needs at least one gate")
        metrics = [gate.metric for gate in self.gates]
        for metric in metrics:
            if metrics.count(metric) > 1:
                raise ValueError(f"verify.gates has two gates on {metric}; keep the stricter one")
        return self


class Recipe(Section):
    """One run from data to verdict."""

    version: Annotated[Literal[1], BeforeValidator(not_bool)] = 1
    """Version of the recipe format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "my-network"
    """Name of the run; the run directory is runs/<name> unless --run-dir says otherwise."""
    seed: Annotated[Integer, Field(ge=0)] = 0
    """Every random number of the run is derived from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where torch works; auto takes a GPU if there is one."""
    threads: Count | None = None
    """CPU threads of torch; without it, torch's default. Part of what makes a run repeatable to the bit."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    threat: ThreatConfig = ThreatConfig()
    train: TrainConfig | None = None
    """Training of the dense network; leave the section out to use model.weights as they are."""
    prune: PruneConfig = PruneConfig()
    export: ExportConfig = ExportConfig()
    verify: VerifyConfig = VerifyConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train is None and self.model.weights is None:
            raise ValueError("there is nothing to prune: give a train section, or model.weights of a robust network")
        batch = self.verify.latency.batch
        for engine in self.export.engines:
            if engine.kind.startswith("tensorrt") and batch > engine.max_batch:
                raise ValueError(
                    f"verify.latency.batch is {batch}, {engine.name} is built for up to {engine.max_batch}"
                )
        if not any(engine.verify for engine in self.export.engines):
            raise ValueError("every engine of export.engines has verify: false, so no gate could be measured")
        return self
