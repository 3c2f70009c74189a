"""How long an image takes on this machine with this recipe's networks: a few timed passes of each kind.

What the stages will use is what is timed: their gradients, their objective, their folded networks, their precision, at
their batch sizes. The pruned network is the run's own where there is one; before that, what the recipe's rule leaves
when the smallest weights go, which has about the same shapes. Engines are taken to need what torch's forward pass does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from madx.attacks import input_gradient, last_iterate
from madx.models.copies import copied
from madx.models.folding import folded
from madx.models.modes import evaluating
from madx.models.precision import PLAIN
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.examples import BATCH
from madx.pipeline.work import Pass, Role
from madx.prune import Rule
from madx.prune.layers import scored_parameters
from madx.recipe import AttackConfig, LoopConfig
from madx.train.objective import Objective

SECONDS = 0.3
"""Of timing each kind of pass, about; more only where two passes of a few images take longer."""
FEW = 8
"""Images of the first pass, which warms up and tells how many the others can have."""
_REPEATS = 2
_STEP = AttackConfig(steps=1)
_LOOP = LoopConfig()


@dataclass(frozen=True)
class Pace:
    """Seconds of one image."""

    seconds: dict[Pass, float]
    activations: int
    """Bytes of what the layers put out for one batch, largest of the networks."""
    parameters: dict[Role, int]
    """Bytes of each network's weights and statistics."""
    example: bool
    """Whether the pruned network is only an example of one."""

    @property
    def pruned_share(self) -> float | None:
        """Time of a pass of the pruned network over that of the dense one, if both were timed."""
        ratios = [
            seconds / self.seconds[dense]
            for way, seconds in self.seconds.items()
            if way.role == "pruned" and (dense := way._replace(role="dense")) in self.seconds and way.kind != "engine"
        ]
        return sum(ratios) / len(ratios) if ratios else None


def measure_pace(context: Context, wanted: Collection[Pass]) -> Pace:
    """Time every kind of pass that is wanted; the run's files and the random numbers of its stages are not touched."""
    seconds: dict[Pass, float] = {}
    parameters: dict[Role, int] = {}
    activations = 0
    example = False
    with torch.random.fork_rng():
        for role in ("dense", "pruned"):
            ways = [way for way in sorted(wanted, key=str) if way.role == role]
            if not ways:
                continue
            network, own = _network(context, role)
            example |= role == "pruned" and not own
            network = network.to(context.device)
            parameters[role] = sum(value.numel() * value.element_size() for value in network.state_dict().values())
            split = context.splits.train if len(context.splits.train) else context.splits.selection
            images, labels = split.tensors(0, max(BATCH, context.batch_size(context.recipe.prune)))
            activations = max(activations, _activations(network, images[:FEW].to(context.device)) * len(images) // FEW)
            for way in ways:
                if way.kind != "engine":
                    seconds[way] = _timed(context, network, way, images, labels)
            forward = Pass(role, "forward")
            if any(way.kind == "engine" for way in ways):
                if forward not in seconds:
                    seconds[forward] = _timed(context, network, forward, images, labels)
                seconds |= {way: seconds[forward] for way in ways if way.kind == "engine"}
    return Pace(seconds, activations, parameters, example)


def _network(context: Context, role: Role) -> tuple[nn.Module, bool]:
    """In the shapes that the stages will use, and whether it is the run's own."""
    name = {"dense": files.DENSE, "pruned": files.PRUNED}[role]
    stage = {"dense": "train", "pruned": "prune"}[role]
    if name in context.run.hashes(stage) and not context.run.changed_outputs(stage):
        return context.loaded_model(name), True
    module = context.new_model().eval()
    if role == "dense":
        return module, True
    rule = Rule(module, context.recipe.prune, example=torch.zeros(2, *context.splits.train.shape))
    weights = {name: parameter.detach().abs() for name, parameter in scored_parameters(module).items()}
    return rule.remove(weights).module, False


def _timed(context: Context, network: nn.Module, way: Pass, images: Tensor, labels: Tensor) -> float:
    """Seconds an image, the least of some passes."""
    size = batch_size(context, way)
    x, y = images[:size].to(context.device), labels[:size].to(context.device)
    once = _pass(context, copied(network), way, x[:FEW])
    few = _clock(context, partial(once, x[:FEW], y[:FEW]), repeats=2)
    count = int(min(len(x), max(FEW, SECONDS / (_REPEATS + 1) / few * min(FEW, len(x)))))
    if count <= FEW:
        return few / min(FEW, len(x))
    return _clock(context, partial(once, x[:count], y[:count]), repeats=_REPEATS) / count


def batch_size(context: Context, way: Pass) -> int:
    """Images at a time, as the stages take them."""
    if way.kind == "update" or (way.kind == "example" and way.format != PLAIN):
        prune, train = context.recipe.prune, context.recipe.train
        loop = prune.finetune if way.role == "pruned" else train
        return context.batch_size(loop if loop is not None else prune)
    return BATCH


def _clock(context: Context, work: Callable[[], object], *, repeats: int) -> float:
    """The least seconds of some calls."""
    least = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - started)
    return least


def _pass(context: Context, network: nn.Module, way: Pass, example: Tensor) -> Callable[[Tensor, Tensor], object]:
    """One pass of that kind, on a network that may be changed."""
    if way.kind == "update":
        return _update(network, way)
    if way.kind == "forward":
        fast = folded(network, example, format=context.compute_format("fp32"))

        def answer(x: Tensor, _: Tensor) -> object:
            with torch.no_grad():
                return fast(x)

        return answer
    climbed: nn.Module = way.format.order_(network).eval()
    if way.kind == "gradient":
        climbed = folded(network, example, format=context.compute_format("fp32"))
    gradient = input_gradient(climbed, precision=way.format.precision)
    threat, generator = context.recipe.threat, torch.Generator()

    def examples(x: Tensor, y: Tensor) -> object:
        with evaluating(climbed):
            return last_iterate(gradient, way.format.ordered(x), y, threat=threat, attack=_STEP, generator=generator)

    return examples


def _update(network: nn.Module, way: Pass) -> Callable[[Tensor, Tensor], object]:
    """A training step on examples that are there already."""
    way.format.order_(network).train().requires_grad_()
    objective = Objective(network, _LOOP, way.format)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> object:
        optimiser.zero_grad()
        points = way.format.ordered(x)
        objective(points, points, y).backward()
        return optimiser.step()

    return step


def _activations(network: nn.Module, images: Tensor) -> int:
    """Bytes that the layers put out for these images."""
    total = 0

    def add(_: nn.Module, __: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    hooks = [layer.register_forward_hook(add) for layer in network.modules() if not list(layer.children())]
    try:
        with evaluating(network), torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return total
