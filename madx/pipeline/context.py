"""What every stage of one run has at hand: recipe, run directory, data, device, and the networks on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from madx.artifacts import FileCheckpoint, RunDirectory, write_atomically
from madx.data import Splits, load_splits
from madx.errors import ModelError, RecipeError
from madx.models import build_model, load_weights, read_state
from madx.progress import Progress
from madx.prune import resize_to_
from madx.recipe import Recipe

DENSE = "dense/model.safetensors"
PRUNED = "pruned/model.safetensors"


@dataclass(frozen=True)
class Context:
    """One run. `key` is the key of the stage that is running; its checkpoints are bound to it."""

    recipe: Recipe
    run: RunDirectory
    progress: Progress
    key: str = ""
    loaded: list[Splits] = field(default_factory=list)
    """The data once it was read; shared with the contexts that are made from this one."""

    @property
    def splits(self) -> Splits:
        """The data, read once for all stages."""
        if not self.loaded:
            self.loaded.append(self._read_data())
        return self.loaded[0]

    def _read_data(self) -> Splits:
        splits = load_splits(self.recipe.data, self.recipe.seed)
        sizes = f"{len(splits.train)} training, {len(splits.selection)} selection, {len(splits.gate)} gate images"
        self.progress.say(f"data {self.recipe.data.name}: {sizes}")
        return splits

    @cached_property
    def device(self) -> torch.device:
        """Where torch works.

        Raises:
            RecipeError: the recipe asks for a GPU that is not there.
        """
        if self.recipe.threads:
            torch.set_num_threads(self.recipe.threads)
        wanted = self.recipe.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise RecipeError("device: cuda, but torch sees no GPU here; use device: auto or cpu")
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    def new_model(self) -> nn.Module:
        """The recipe's network with fresh weights, on the CPU."""
        train = self.splits.train
        return build_model(self.recipe.model, shape=train.shape, classes=train.classes, seed=self.recipe.seed)

    def dense_model(self) -> nn.Module:
        """The dense network of this run, eval mode, on the CPU."""
        module = self.new_model()
        load_weights(module, self.run.path(DENSE))
        return module.eval()

    def pruned_model(self) -> nn.Module:
        """The pruned network of this run, eval mode, on the CPU."""
        module = self.new_model()
        try:
            resize_to_(module, read_state(self.run.path(PRUNED)))
        except RuntimeError as error:
            raise ModelError(f"{self.run.path(PRUNED)} does not fit the recipe's network: {error}") from None
        return module.eval()

    def checkpoint(self, name: str) -> FileCheckpoint:
        """Where the running stage keeps the state of its work `name` until the stage is finished."""
        return FileCheckpoint(self.run.path(f"checkpoints/{name}.pt"), self.key)

    def write_tensors(self, name: str, tensors: dict[str, Tensor]) -> str:
        """Write a safetensors file of the run; returns its name."""
        whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        write_atomically(self.run.path(name), save_safetensors(whole, metadata={"format": "pt"}))
        return name

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of the run."""
        return load_safetensors(self.run.path(name).read_bytes())
