"""The verdict in one sentence: the gate that decided it, what would get further, and the step that does.

Pure: a verdict, its recipe and its provenance in, words and a `Step` out. A FAIL is decided by the gate furthest beyond
its bound, a PASS by the one nearest to it, both as a share of the bound; an INCONCLUSIVE by the gate whose remedy is
due first (`madx.verify.remedies`), since before that nothing else is decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from madx.deploy.engine import INSTALL
from madx.recipe import SUITE_NAMES, EngineConfig, about
from madx.report import words
from madx.report.next_step import Invocation, Step, command
from madx.verify import GateResult, Outcome, Remedy, Verdict
from madx.verify.parity import PARITY_IMAGES
from madx.verify.sampling import BLOCK_CALLS, PAIRS
from madx.verify.timings import MAX_PAIRS

_LEAST_BOUND = 0.01
"""A bound of 0 is no unit to measure distances in; a point is."""
_FAR = 0.05
"""Share of the images beyond its bound at which a loss is too large for more fine-tuning alone."""
_USUAL = EngineConfig().model_dump(mode="json", exclude={"kind"})
_GENTLER, _MORE_TRAINING, _MORE_PAIRS = 0.8, 2, 4


@dataclass(frozen=True)
class Headline:
    """What decided, and what to do."""

    gate: str | None
    """The metric; None if nothing was judged."""
    engine: str | None
    sentence: str
    remedy: Remedy | None = None
    step: Step | None = None
    """None where no command of madx gets further, or nothing is left to do."""

    def command(self, typed: Invocation) -> str | None:
        """What to type, after a command line that was typed like this."""
        return None if self.step is None else command(self.step, typed)

    def to_json(self, typed: Invocation) -> dict[str, str | None]:
        """For machines, with the command."""
        remedy = None if self.remedy is None else self.remedy.value
        shown = {"gate": self.gate, "engine": self.engine, "sentence": self.sentence, "remedy": remedy}
        return shown | {"command": self.command(typed)}


def headline(verdict: Verdict, recipe: Mapping[str, Any], provenance: Mapping[str, Any]) -> Headline:
    """The deciding gate, in a sentence, and what gets further.

    Args:
        verdict: of a run.
        recipe: that it was reached by, JSON; a part that is missing only makes the step less precise.
        provenance: of the verdict, JSON.
    """
    if not verdict.gates:
        return Headline(None, None, "no gate was measured, so nothing is shown")
    facts = _Facts(recipe, provenance, verdict)
    gate = deciding(verdict)
    said = f"{words.clause(gate)} on {gate.engine}"
    remedy, step, remark = facts.next(gate)
    if verdict.outcome is Outcome.PASS:
        said = f"closest to its bound is {said}" if len(verdict.gates) > 1 else said
    elif remark or gate.reason:
        said = f"{said}: {_continued(words.clean(remark or gate.reason))}"
    return Headline(gate.metric, gate.engine, said, remedy, step)


def _continued(sentence: str) -> str:
    """As it goes on after a colon."""
    begins_a_word = sentence[1:2].islower() or sentence[1:2] == " "
    return (sentence[:1].lower() if begins_a_word else sentence[:1]) + sentence[1:].rstrip(".")


def deciding(verdict: Verdict) -> GateResult:
    """The gate that the verdict hangs on; of several that are alike the first."""
    gates = [gate for gate in verdict.gates if gate.outcome is verdict.outcome]
    if verdict.outcome is Outcome.INCONCLUSIVE:
        order = list(Remedy)
        return min(gates, key=lambda gate: order.index(gate.remedy) if gate.remedy else len(order))
    return (min if verdict.outcome is Outcome.PASS else max)(gates, key=_distance)


def _distance(gate: GateResult) -> float:
    """From the limit that decided the gate to its bound, as a share of the bound."""
    lower_decides = (gate.direction == "at_least") == (gate.outcome is Outcome.PASS)
    limit = gate.lower if lower_decides else gate.upper
    return math.inf if limit is None else abs(limit - gate.bound) / max(abs(gate.bound), _LEAST_BOUND)


@dataclass(frozen=True)
class _Facts:
    """What the next step depends on beside the gate."""

    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any]
    verdict: Verdict

    @property
    def alone(self) -> bool:
        """Whether an engine was judged that no run made: then no key of the recipe makes another."""
        return "engine" in (self.provenance.get("given") or {})

    def section(self, name: str) -> Mapping[str, Any]:
        """Of the recipe; empty where that is not recorded."""
        found: Mapping[str, Any] = self.recipe.get(name) or {}
        return found

    def next(self, gate: GateResult) -> tuple[Remedy | None, Step | None, str]:
        """Remedy, step, and a sentence to say instead of the gate's reason, if any."""
        if gate.remedy is None and gate.outcome is not Outcome.PASS:
            return None, None, ""  # of a verdict that an earlier madx wrote
        match gate.remedy:
            case Remedy.MORE_IMAGES:
                return self._more_images(gate)
            case Remedy.MORE_TIMING if not gate.wanted_pairs and gate.estimate is not None:
                return Remedy.FASTER_CANDIDATE, self._better_candidate(gate), ""
            case Remedy.MORE_TIMING:
                return gate.remedy, Step("verify", self._pairs(), only_latency=True), ""
            case Remedy.QUIETER_MACHINE:
                return gate.remedy, Step("verify", only_latency=True), ""
            case Remedy.INSTALL_ENGINE:
                return gate.remedy, self._install(gate), ""
            case Remedy.GIVE_REFERENCE | Remedy.GIVE_TWIN:
                return gate.remedy, self._files(gate.remedy), ""
            case Remedy.MEND_ENGINE:
                return gate.remedy, self._fp32(gate.engine), ""
            case Remedy.OTHER_IMAGES | Remedy.FEED_REFERENCE:
                return gate.remedy, None, ""
            case Remedy.ROBUST_REFERENCE:
                return gate.remedy, self._train_longer(), ""
            case Remedy.ANOTHER_SEED:
                seed = {"seed": str(int(self.recipe.get("seed", 0)) + 1)}
                return gate.remedy, Step("verify" if self.alone else "run", seed), ""
            case Remedy.RECOVER_ACCURACY | Remedy.FASTER_CANDIDATE:
                return gate.remedy, self._better_candidate(gate), ""
        step = self._stronger_attack()
        return (Remedy.STRONGER_ATTACK if step or gate.remedy else None), step, ""

    def _more_images(self, gate: GateResult) -> tuple[Remedy, Step | None, str]:
        """As many images as every undecided gate needs, while there are so many."""
        counts = self.provenance.get("gate_images") or {}
        split = int(counts.get("split", 0))
        wanted = [one for one in map(self._images, self.verdict.gates) if one is not None]
        most, own = max(wanted, default=0), self._images(gate)
        if _is_of_parity(gate) and own is not None and own > PARITY_IMAGES:
            return Remedy.MEND_ENGINE, self._fp32(gate.engine), f"no more than {PARITY_IMAGES} images are compared"
        if own is None:
            return Remedy.RECOVER_ACCURACY, self._better_candidate(gate), ""
        if most <= split:
            return Remedy.MORE_IMAGES, Step("verify", {"verify.images": str(most)} | self._pairs()), ""
        few = f"about {own:,} images would decide it, and the gate split has {split:,}"
        if self.section("data").get("gate"):
            capped = {"verify.images": str(most)} if self.section("verify").get("images") else {}
            return Remedy.MORE_IMAGES, Step("run", {"data.gate": str(most)} | capped | self._pairs()), few
        if int(counts.get("images", split)) < split:
            more = f"{few}; all of them may do"
            return Remedy.MORE_IMAGES, Step("verify", {"verify.images": str(split)} | self._pairs()), more
        more = f"{few}: more gate images are needed, or a candidate further from the bound"
        return Remedy.RECOVER_ACCURACY, self._better_candidate(gate), more

    def _images(self, gate: GateResult) -> int | None:
        """How many an undecided gate needs in all, in round numbers; None if it needs none or no number would do."""
        measured = int((self.provenance.get("gate_images") or {}).get("images", 0))
        if gate.remedy is not Remedy.MORE_IMAGES or gate.more_images is None:
            return None
        if _is_of_parity(gate):
            return min(measured, PARITY_IMAGES) + gate.more_images
        exact = measured + gate.more_images
        unit = int(10 ** max(len(str(exact)) - 2, 0))
        return -(-exact // unit) * unit

    def _pairs(self) -> dict[str, str]:
        """Settings under which the undecided gates on times would be decided; none if there are none of these."""
        undecided = [gate for gate in self.verdict.gates if gate.remedy is Remedy.MORE_TIMING]
        if not undecided:
            return {}
        settings = self.section("verify").get("latency") or {}
        guess = _MORE_PAIRS * int(settings.get("pairs") or PAIRS)  # where nothing says how many carry a percentile
        pairs = max(gate.wanted_pairs or guess for gate in undecided)
        if pairs <= MAX_PAIRS:
            return {"verify.latency.pairs": str(pairs)}
        calls = math.ceil(int(settings.get("block_calls") or BLOCK_CALLS) * pairs / MAX_PAIRS)
        return {"verify.latency.pairs": str(MAX_PAIRS), "verify.latency.block_calls": str(calls)}

    def _install(self, gate: GateResult) -> Step:
        """The pip line, if one helps, and then the same again."""
        _, _, line = gate.reason.partition(INSTALL)
        return Step("verify" if self.alone else "run", before=line.strip().rstrip("."))

    def _files(self, remedy: Remedy) -> Step:
        """What was not given, in capitals where its name has to be put."""
        given = self.provenance.get("given") or {}
        with_twins = not (self.provenance.get("attack") or {}).get("query_only", True)
        if remedy is Remedy.GIVE_REFERENCE:
            twin = ("--reference-twin", "REFERENCE.safetensors") if with_twins else ()
            return Step("verify", files=("--reference", "REFERENCE.onnx", *twin))
        other = ("--reference-twin", "REFERENCE.safetensors") if "reference" in given else ()
        return Step("verify", files=("--twin", "WEIGHTS.safetensors", *other))

    def _fp32(self, engine: str) -> Step | None:
        """An engine of lower precision may be its network in full precision; one that is in that has a fault."""
        if self.alone:
            return Step("verify")
        engines = self.section("export").get("engines") or []
        names = [f"{one.get('kind')}-{one.get('precision')}" for one in engines]
        if not engine.endswith("-fp16") or engine not in names or engine.replace("fp16", "fp32") in names:
            return None
        wanted = [
            one | {"precision": "fp32"} if name == engine else one for one, name in zip(engines, names, strict=True)
        ]
        shown = [{key: value for key, value in one.items() if value != _USUAL.get(key)} for one in wanted]
        flow = yaml.safe_dump(shown, default_flow_style=True, width=math.inf, sort_keys=False)
        return Step("run", {"export.engines": flow.strip()})

    def _train_longer(self) -> Step | None:
        """A reference without robustness has none to lose; weights that were given have to be others."""
        if self.alone:
            return Step("verify")
        train = self.section("train")
        if not train.get("epochs"):
            return Step("run", {"model.weights": "ROBUST.safetensors"})
        return Step("run", {"train.epochs": f"{_MORE_TRAINING * train['epochs']:g}"})

    def _stronger_attack(self) -> Step | None:
        """What every robust accuracy lacks: the next suite, if a gate asks for robustness and there is one."""
        if not any((known := about(gate.metric)) and known.on_robustness for gate in self.verdict.gates):
            return None
        attack = self.section("verify").get("attack", SUITE_NAMES[-1])
        place = SUITE_NAMES.index(attack) + 1 if attack in SUITE_NAMES else 1
        return Step("verify", {"verify.attack": SUITE_NAMES[place]}) if place < len(SUITE_NAMES) else None

    def _better_candidate(self, gate: GateResult) -> Step:
        """Another pruned network: further from the bound is what a lost gate needs, however it is measured."""
        prune = self.section("prune")
        if self.alone or not prune:
            return Step("verify" if self.alone else "run")
        sparsity, channels = float(prune.get("sparsity", 0.5)), "channels" in str(prune.get("structure", "channels"))
        known = about(gate.metric)
        if known is not None and known.unit == "ratio":
            if not channels:
                return Step("run", {"prune.structure": "channels"})
            return Step("run", {"prune.sparsity": f"{1 - _GENTLER * (1 - sparsity):.2g}"})
        finetune = prune.get("finetune") or {}
        far = gate.estimate is not None and abs(gate.estimate - gate.bound) > _FAR
        if prune.get("structure") != "2:4" and (far or not finetune):
            return Step("run", {"prune.sparsity": f"{_GENTLER * sparsity:.2g}"})
        return Step("run", {"prune.finetune.epochs": f"{_MORE_TRAINING * finetune.get('epochs', 1):g}"})


def _is_of_parity(gate: GateResult) -> bool:
    known = about(gate.metric)
    return known is not None and known.needs_twin
