"""What every stage of one run has at hand: recipe, run directory, data, device, and the networks on disk.

In a job of several processes the run directory is process 0's: the others read through it, and write nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

import madx
from madx.artifacts import Checkpoint, FileCheckpoint, parse_object, write_atomically, write_json
from madx.data import Splits, describe, load_splits
from madx.distributed import SINGLE, World
from madx.errors import ModelError, RecipeError
from madx.models import build_model
from madx.models.precision import Asked, ComputeFormat, Probe
from madx.pipeline import files
from madx.pipeline.formats import describe_choice, kept_probe, warning
from madx.pipeline.given import CANDIDATE, NOTHING, Given, Source
from madx.pipeline.releases import sources
from madx.progress import Progress, listening
from madx.prune import resize_to_
from madx.recipe import LoopConfig, PruneConfig, Recipe
from madx.recipe.values import FEWEST_IMAGES, fitting_batch
from madx.report.next_step import NOTHING_TYPED, Invocation
from madx.rundir import CHECKPOINTS, RunDirectory
from madx.verify.arrays import Arrays

_NOTHING_TAKEN: dict[str, Any] = {"depends": {"given": {}}}


T = TypeVar("T")


@dataclass(frozen=True)
class RunningStage:
    """The stage that is worked on. Each stage's context is the run's, with another one of these."""

    key: str = ""
    """Its checkpoints are bound to it."""
    made_of: Mapping[str, Any] = field(default_factory=lambda: {"stage": "none"})
    """What `key` is the hash of, the stage's name among it."""
    wanted: tuple[str, ...] = ()
    """Names of the stages that are being brought up to date, the running one among them."""
    afresh: bool = False
    """Whether it was asked for again: it takes up what a killed run left, nothing that it finished."""
    taken: tuple[str, ...] | None = None
    """Roles of the engines from outside, once process 0 has settled that for all stages; None before."""

    @property
    def name(self) -> str:
        """As in `madx.pipeline.stages`."""
        return str(self.made_of["stage"])


@dataclass(frozen=True)
class Once:
    """What is read, measured or said once, by name: the contexts of a run's stages have one of these in common."""

    done: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, work: Callable[[], T], *, keep: bool = True) -> T:
        """What `work` came to when it was first asked for; called again until it may be kept."""
        found: T = self.done[name] if name in self.done else work()
        if keep:
            self.done[name] = found
        return found

    def branch(self) -> Once:
        """All that was done so far; what is done from here on, either of the two does for itself."""
        return Once(dict(self.done))


@dataclass(frozen=True)
class Context:
    """One run, as the running stage sees it. Nothing in it is changed: `dataclasses.replace` makes another."""

    recipe: Recipe
    run: RunDirectory
    progress: Progress
    world: World = SINGLE
    given: Given = NOTHING
    written: Recipe | None = None
    """The recipe with its paths as its author wrote them, for the verdict, which is read elsewhere."""
    typed: Invocation = NOTHING_TYPED
    """The command line, for those who are told what to type next."""
    only_latency: bool = False
    """Whether the verify stage times again and keeps what else it measured."""
    accepted: Callable[[], None] | None = None
    """What process 0 does as soon as what was given is taken over, before anything is measured; once."""
    stage: RunningStage = field(default_factory=RunningStage)
    once: Once = field(default_factory=Once, repr=False)

    @property
    def sources(self) -> dict[str, Source]:
        """What was given from outside the run, read once; process 0 reads it for all.

        Raises:
            ArtifactError: a file is not there, or not what its run wrote.
        """
        if not self.given.any:
            return {}
        return self._once_for_all("sources", lambda: sources(self.given, self.recipe.export.engines))

    def accept(self) -> None:
        """Tell whoever waits for it that what was given is taken over."""
        if self.accepted is not None:
            self.once.get("accepted", self.accepted)

    @property
    def taken(self) -> tuple[str, ...]:
        """Roles of the engines from outside: those that are given now, else those that this run was given before."""
        if self.given.any:
            return tuple(self.sources)
        if self.stage.taken is not None:
            return self.stage.taken
        return self.world.share(lambda: tuple((self.run.stage("take") or _NOTHING_TAKEN)["depends"]["given"]))

    def recipe_to_show(self) -> dict[str, Any]:
        """The whole recipe, defaults included, JSON-ready; paths are as they were written, where that is known."""
        return (self.written or self.recipe).model_dump(mode="json")

    @property
    def alone(self) -> bool:
        """Whether this run judges an engine that it did not make."""
        return CANDIDATE in self.taken

    @property
    def splits(self) -> Splits:
        """The data, read once for all stages.

        Raises:
            RecipeError: there are fewer images than the recipe's later stages need.
        """
        return self.once.get("splits", self._read_splits)

    def _read_splits(self) -> Splits:
        with listening(self.progress):
            splits = load_splits(self.recipe.data, self.recipe.seed, trains=not self.given.alone)
        sizes = f"{len(splits.train)} training, {len(splits.selection)} selection, {len(splits.gate)} gate images"
        self._check_enough(splits)
        for sentence in (sizes, *describe(splits)):
            self.progress.say(f"data {self.recipe.data.name}: {sentence}")
        return splits

    @property
    def device(self) -> torch.device:
        """Where torch works.

        Raises:
            RecipeError: the recipe asks for a GPU that is not there.
        """
        return self.once.get("device", self._prepared_device)

    def _prepared_device(self) -> torch.device:
        if self.recipe.threads:
            torch.set_num_threads(self.recipe.threads)
        wanted = self.recipe.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise RecipeError("device: cuda, but torch sees no GPU here; use device: auto or cpu")
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def probe(self) -> Probe:
        """In which formats the recipe's network can be computed here, and how fast; process 0 measures for all."""
        shape, model, device = self.splits.train.shape, self.recipe.model, self.device
        found = self._once_for_all(
            "probe", lambda: kept_probe(self.run, model, self.new_model(), shape=shape, device=device)
        )
        self.once.get("probe said", lambda: self.progress.say(describe_choice(found)))
        return found

    def compute_format(self, asked: Asked, *, setting: str = "") -> ComputeFormat:
        """The fastest format of the precision that the recipe's `setting` asks for; a slow one is warned of once.

        Without a setting nobody asked for it, and there is nothing to change.
        """
        if setting and asked != "auto" and (told := warning(self.probe, asked, setting)):
            self.once.get(f"warned of {setting}", lambda: self.progress.say(told))
        return self.probe.fastest(asked)

    def _once_for_all(self, name: str, work: Callable[[], T]) -> T:
        """What process 0 finds is kept by all, or by none: one that has it would not wait where the others ask."""
        return self.once.get(name, lambda: self.world.share(work), keep=not self.world.apart)

    def batch_size(self, config: LoopConfig | PruneConfig) -> int:
        """Images a batch of that part of the recipe, on this run's training split."""
        return fitting_batch(config.batch_size, len(self.splits.train))

    def new_model(self) -> nn.Module:
        """The recipe's network with fresh weights, on the CPU."""
        train = self.splits.train
        return build_model(self.recipe.model, shape=train.shape, classes=train.classes, seed=self.recipe.seed)

    def dense_model(self) -> nn.Module:
        """The dense network of this run, eval mode, on the CPU."""
        return self.loaded_model(files.DENSE)

    def pruned_model(self) -> nn.Module:
        """The pruned network of this run, eval mode, on the CPU."""
        return self.loaded_model(files.PRUNED)

    def loaded_model(self, name: str) -> nn.Module:
        """The recipe's network in the shapes, and with the values, of a file of this run; eval mode, on the CPU."""
        module = self.new_model()
        try:
            resize_to_(module, self.read_tensors(name))
        except RuntimeError as error:
            raise ModelError(f"{self.run.path(name)} does not fit the recipe's network: {error}") from None
        return module.eval()

    def checkpoint(self, name: str) -> Checkpoint:
        """Where the running stage keeps the state of its work `name`; another madx does not take it up."""
        file = FileCheckpoint(self.run.path(f"{self.checkpoints}/{name}.pt"), f"{madx.__version__} {self.stage.key}")
        return _SharedCheckpoint(file, self.world)

    def in_parts(self, name: str, description: str, parts: Mapping[str, Callable[[], Arrays]]) -> Arrays:
        """The arrays of all parts together; each is shown, and kept as soon as it is done, so that a kill costs one.

        Args:
            name: of the checkpoint.
            description: of the work, for the progress.
            parts: by name, what measures arrays of numbers or bools; no two give an array of the same name.
        """
        checkpoint = self.checkpoint(name)
        kept = checkpoint.load() or {}
        for part, work in self.progress.track(parts.items(), description, total=len(parts)):
            if part not in kept:
                kept[part] = {key: torch.from_numpy(value) for key, value in work().items()}
                checkpoint.save(kept)
        return {key: value.numpy() for part in parts for key, value in kept[part].items()}

    @property
    def checkpoints(self) -> str:
        """Name of the folder in which the running stage keeps unfinished work, in any run directory."""
        return f"{CHECKPOINTS}/{self.stage.name}-{self.stage.key[:16]}"

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write a file of the run; returns its name."""
        if self.world.first:
            write_atomically(self.run.path(name), content)
        return name

    def write_tensors(self, name: str, tensors: dict[str, Tensor]) -> str:
        """Write a safetensors file of the run; a tensor with several names is written under each. Returns the name."""
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        return self.write_bytes(name, save_safetensors(whole, metadata={"format": "pt"}))

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Write a compressed .npz file of the run; returns its name."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
        return self.write_bytes(name, buffer.getvalue())

    def write_json(self, name: str, content: Any) -> str:
        """Write a JSON file of the run; returns its name."""
        if self.world.first:
            write_json(self.run.path(name), content)
        return name

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a file that a finished stage wrote, checked against the manifest."""
        return self.world.share(lambda: self.run.read(name))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file that a finished stage wrote, checked against the manifest."""
        return load_safetensors(self.read_bytes(name))

    def read_json(self, name: str, *keys: str) -> dict[str, Any]:
        """The object with these keys that a finished stage wrote into a JSON file, checked against the manifest.

        Raises:
            ArtifactError: the file was changed, or does not hold that.
        """
        return parse_object(self.read_bytes(name), name, keys)

    def _check_enough(self, splits: Splits) -> None:
        """What would fail in a later stage fails before the first one."""
        for compared in (splits.selection, splits.gate):
            if len(compared) < FEWEST_IMAGES:
                told = "; ".join(splits.copies.sentences())
                raise RecipeError(
                    f"the {compared.name} split has {len(compared)} images, and engines are compared on at least "
                    f"{FEWEST_IMAGES}; set data.selection, or give a larger data set{told and f' ({told})'}"
                )
        if self.given.alone:
            return  # nothing is trained or pruned
        prune, train = self.recipe.prune, self.recipe.train
        steps = {"prune": prune, "train": train, "prune.finetune": prune.finetune}
        for key, section in steps.items():
            wanted, images = (section.batch_size or 1) if section else 1, len(splits.train)
            if wanted > images:
                raise RecipeError(
                    f"{key}.batch_size is {wanted}, but there are only {images} training images; lower it"
                )


@dataclass(frozen=True)
class _SharedCheckpoint:
    """A file that process 0 keeps; all processes take up the state it holds."""

    file: FileCheckpoint
    world: World

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None at the start."""
        return self.world.share(self.file.load)

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` instead of the last one."""
        if self.world.first:
            self.file.save(state)
