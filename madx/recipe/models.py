"""The sections of a recipe. A field's description is also its comment in `madx init` and in the JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from madx.recipe.data import DataConfig
from madx.recipe.engines import ENGINE_KINDS
from madx.recipe.feeding import InputConfig, OutputConfig
from madx.recipe.gates import GateConfig, LatencyConfig
from madx.recipe.metrics import taking
from madx.recipe.section import Section
from madx.recipe.threat import AttackConfig, ThreatConfig
from madx.recipe.training import FinetuneConfig, TrainConfig
from madx.recipe.values import (
    Arguments,
    ClassName,
    Count,
    CountOrAuto,
    FactoryName,
    ImageCount,
    Integer,
    NamePrefix,
    Number,
    RowOf,
    Share,
    not_bool,
)

RECIPE_VERSION = 1
CRITERION_NAMES = ("mad", "mad-paper", "mad-reversed", "taylor", "obd", "hydra", "magnitude", "random")
"""The rows of `madx.prune.CRITERIA`, which takes seconds to import."""
SUITE_NAMES = ("quick", "standard", "paranoid")
"""The rows of `madx.attacks.SUITES`, from the weakest on; likewise."""
KINDS_OF_ATTACK = ("suite", "pgd")
"""Names that pydantic puts into the place of an error; a recipe has no such keys."""
INT8_KINDS = ("ort-cpu", "openvino-cpu")
"""Kinds of engine that madx makes int8 files for."""


class ModelConfig(Section):
    """The network. Normalisation is inside it, so that it takes images in [0, 1]."""

    name: Literal["resnet8", "resnet18", "vgg16_bn", "wrn28_10", "factory"] = "resnet8"
    """Which architecture."""
    factory: FactoryName | None = None
    """For name: factory, a 'module:callable' that returns a torch.nn.Module taking images in [0, 1]."""
    args: Arguments = Field(default_factory=dict)
    """Keyword arguments of the architecture or factory, for example {widths: [64, 128, 128]}."""
    weights: Path | None = None
    """A file of torch (tensors only) or .safetensors to start from; usual wrappings are taken off."""
    key: ClassName | None = None
    """Where in that file the state is, for example model_ema; needed where several that differ fit the network."""
    strip_prefix: NamePrefix | None = None
    """What the network's names begin with in that file, for example "model."; what does not is left out."""

    @property
    def architecture(self) -> dict[str, Any]:
        """What of this section builds the network, JSON-ready; the rest says what weights it gets."""
        return self.model_dump(mode="json", exclude={"weights", "key", "strip_prefix"})

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if (self.name == "factory") != (self.factory is not None):
            raise ValueError("model.factory belongs to model.name: factory, and each needs the other")
        for name in ("key", "strip_prefix"):
            if self.weights is None and getattr(self, name) is not None:
                raise ValueError(f"model.{name} says what to take of model.weights, which are not given")
        return self


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

    criterion: Annotated[str, RowOf("madx.criteria", CRITERION_NAMES)] = "mad"
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
    keep: tuple[str, ...] = ()
    """Layers that lose nothing of what they make: names or patterns as in `body.0.*`; a name stands for all in it."""
    only: tuple[str, ...] = ()
    """If there are any, the only layers that lose something, named in the same way."""
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
        exact = set(CRITERION_NAMES) - {"mad-paper", "mad-reversed"}  # a package's row says so itself, and later
        if self.precision == "bf16" and self.criterion in exact:
            raise ValueError(f"prune.precision: bf16 is for mad-paper and mad-reversed, not for {self.criterion}")
        if self.structure == "2:4" and self.sparsity != 0.5:
            raise ValueError(
                f"prune.structure: 2:4 removes exactly half; prune.sparsity is {self.sparsity:g}, set it to 0.5"
            )
        return self


class EngineConfig(Section):
    """One engine to build from the dense and from the pruned ONNX file."""

    kind: Annotated[str, RowOf(ENGINE_KINDS.group, tuple(ENGINE_KINDS.own))] = "ort-cpu"
    """Which runtime."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Precision of the ONNX file the engine is built from (engines are strongly typed); int8 is for ort-cpu and
    openvino-cpu, and export.calibration says how it is made."""
    dense_precision: Literal["fp32", "fp16", "int8"] | None = None
    """Precision of the dense engine that it is compared with; null: fp32 beside int8, so that the gates see what
    quantising loses, else its own."""
    threads: Count | None = None
    """CPU engines: intra-op threads; without it, the machine's physical cores."""
    max_batch: Count = 128
    """Largest batch of the optimisation profile (TensorRT); the optimum is verify.latency's batch."""
    verify: bool = True
    """Whether the gates are measured on this engine; an engine with verify: false is built and recorded only."""

    @model_validator(mode="after")
    def _takes_int8(self) -> Self:
        if "int8" in (self.precision, self.dense_precision) and self.kind not in INT8_KINDS:
            raise ValueError(
                f"precision: int8 cannot be made for {self.kind} yet, only for {' and '.join(INT8_KINDS)}; take fp32 "
                "or fp16 here"
            )
        if self.dense_precision not in (None, "fp32", self.precision):
            raise ValueError(
                f"dense_precision: {self.dense_precision} beside precision: {self.precision} would compare with an "
                "engine that nobody serves, slow or weak for its numbers alone; take fp32, or the engine's own"
            )
        return self

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return ENGINE_KINDS[self.kind].on_gpu

    @property
    def name(self) -> str:
        """The engine's name in the run directory and in the report, for example 'tensorrt-rtx-fp16'."""
        return f"{self.kind}-{self.precision}"

    def precision_of(self, role: str) -> str:
        """Of the run's own dense or pruned file that the engine is built from."""
        if role != "dense":
            return self.precision
        return self.dense_precision or ("fp32" if self.precision == "int8" else self.precision)

    def of_precision(self, precision: str) -> EngineConfig:
        """The same engine of a file of another precision, as what it is compared with may have."""
        return self.model_copy(update={"precision": precision})


class CalibrationConfig(Section):
    """How int8 engines are made: what the ranges of their activations are taken from, and which layers stay float."""

    images: ImageCount = 500
    """Selection images (all where there are fewer)."""
    adversarial: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Share of them that is attacked first: an attack drives activations where clean images never do."""
    method: Literal["min-max", "percentile", "entropy"] = "min-max"
    """How a range is taken from an activation's values: all of them, all but the rarest, or by the entropy."""
    weight_bits: Literal["auto", 8, 7] = "auto"
    """auto: 8, or 7 where this CPU adds up pairs of products in 16 bits and these saturate, which is tried."""
    keep: tuple[str, ...] = ()
    """Layers that stay float32, by patterns of their weights' names, for example ["conv1.*", "linear.*"]."""


class ExportConfig(Section):
    """ONNX files and engines."""

    opset: Annotated[Integer, Field(ge=18, le=23)] = 20
    """ONNX operator set."""
    parity_images: ImageCount = 256
    """Selection images (all where there are fewer) on which the ONNX file is compared with the torch network."""
    calibration: CalibrationConfig = CalibrationConfig()
    """How int8 engines are made."""
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


_GATES = (
    f"All must pass. Metrics: {taking('at_least')} (at_least); {taking('at_most')} (at_most); confidence defaults to "
    "0.95."
)


class VerifyConfig(Section):
    """Measurements on the deployed engines and the gates that judge them."""

    attack: Annotated[
        Annotated[str, RowOf("madx.attacks", SUITE_NAMES), Tag(KINDS_OF_ATTACK[0])]
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
    input: InputConfig = InputConfig()
    """How the ONNX file of --engine wants its images (docs/onnx.md). For other files than madx's own."""
    output: OutputConfig = OutputConfig()
    """Which of its outputs are the scores of the classes."""
    reference_input: InputConfig | None = None
    """The same of the ONNX file of --reference or --baseline; null: as the engine's. {} is madx's own layout."""
    reference_output: OutputConfig | None = None
    """The same; null: as the engine's."""
    latency: LatencyConfig = LatencyConfig()
    """Timing of the engines."""
    gates: Annotated[tuple[GateConfig, ...], Field(description=_GATES)] = (
        GateConfig(metric="speedup", at_least=1.5),
        GateConfig(metric="robust_drop", at_most=0.03),
    )

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
    """Training of the dense network; leave the section out to use model.weights as they are. Without both, the recipe
    can only judge files from outside (madx verify --engine)."""
    prune: PruneConfig = PruneConfig()
    export: ExportConfig = ExportConfig()
    verify: VerifyConfig = VerifyConfig()

    @property
    def has_network(self) -> bool:
        """Whether there is a network to train or to take over; judging a file from outside needs none."""
        return self.train is not None or self.model.weights is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        batch = self.verify.latency.batch
        for engine in self.export.engines:
            if engine.kind.startswith("tensorrt") and batch > engine.max_batch:
                raise ValueError(
                    f"verify.latency.batch is {batch}, {engine.name} is built for up to {engine.max_batch}"
                )
        if not any(engine.verify for engine in self.export.engines):
            raise ValueError("every engine of export.engines has verify: false, so no gate could be measured")
        return self
