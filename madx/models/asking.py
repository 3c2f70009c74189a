"""What is said where a weights file does not decide by itself: what is there, and the setting that decides.

Settings are written as a recipe has them. Of a file that the recipe's settings do not speak of (`Choice.settable` is
false), what is meant is to be saved alone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from madx.models.reading import SAVE_AGAIN, NotRead, NumpyArray
from madx.models.states import Choice, Fit, Needs, Table, endings, fits, is_alike, kind

_CONSTANT = re.compile(r"(?!running_)(?:[a-z0-9]+_)*(means?|mu|stds?|stdev|stddev|sigma)(?:_[a-z0-9]+)*", re.IGNORECASE)
"""How networks call the normalisation that they keep among their weights."""
_SHOWN = 5
_COMPARED = 500
"""Names of a file that are looked through for one that is like the network's."""
_HINTS: tuple[tuple[str, str], ...] = (
    (r"_mask$", "Masks of torch.nn.utils.prune: call its remove() for each layer before saving"),
    (
        r"\.parametrizations\.",
        "Parametrised layers: call torch.nn.utils.parametrize.remove_parametrizations before saving",
    ),
    (r"weight_g$", "Layers of weight_norm: call torch.nn.utils.remove_weight_norm for each before saving"),
    (r"weight_u$", "Layers of spectral_norm: call torch.nn.utils.remove_spectral_norm for each before saving"),
    (r"lora_\w+$", "Low-rank additions (LoRA), without which it is another network: merge them before saving"),
    (r"_packed_params|zero_point$|_fake_quant", "Parts of a quantised network: save the one that was quantised"),
    (r"(^|\.)_?flat_param", "Sharded weights (FSDP): save the full state dict"),
    (r"total_(ops|params)$", "Counters that thop.profile leaves: they may be left out"),
)
"""What names of a file tell of how it was made, and what to do."""
_ODD_REMEDIES = {
    "quantised": "save value.dequantize() of those that are quantised",
    "not dense": "save value.to_dense() of those that are sparse",
    "without its data": "save it from where its data is: these are on the device 'meta'",
}
_ALONE = "Save the one that is meant alone, in a file of its own"


def role_of(name: str) -> str | None:
    """Whether a name is that of a normalisation's 'mean' or 'std'."""
    found = _CONSTANT.fullmatch(name.rpartition(".")[2])
    return found and ("mean" if found[1].lower() in ("mean", "means", "mu") else "std")


def ask_which(different: Sequence[Fit], choice: Choice) -> str:
    """Several states fit and differ."""
    told = f"{len(different)} states in this file fit the network and differ: {some(map(name_of, different))}."
    settings = [_setting(fit, different) for fit in different]
    if not choice.settable or not all(settings):
        return f"{told} {_ALONE}."
    return f"{told} Say which one is meant: {' or '.join(settings[:_SHOWN])}."


def ask_for_the_rest(fit: Fit, unknown: Sequence[str], constants: Sequence[str], needs: Needs, choice: Choice) -> str:
    """All of the network is there, and something else of unknown meaning.

    Args:
        fit: where the network is.
        unknown: names of what else is there.
        constants: those of them that look like a normalisation.
        needs: of the network.
        choice: what the recipe says.
    """
    tensors = fit.table.tensors
    told = [
        f"{name} {list(tensors[name].shape)}" if name in tensors else f"{name} ({fit.table.odd[name]})"
        for name in unknown
    ]
    text = f"all of the network is there, {_where(fit)}, and beside it stands what may mean something: {some(told)}."
    if constants:
        text += f" {_about_normalisation(constants, tensors, needs)}"
    text += _hints(unknown, [])
    if not choice.settable:
        return f"{text} Save the network's weights alone, in a file of its own."
    return f"{text} To take the network and leave the rest: model.strip_prefix: {json.dumps(fit.prefix)}."


def _hints(names: Iterable[str], odd: Iterable[str]) -> str:
    """What to do about names, and about what is no plain tensor, as sentences with a blank before each."""
    listed, kinds = list(names), list(odd)
    told = [hint for pattern, hint in _HINTS if any(re.search(pattern, name) for name in listed)]
    told += [remedy[0].upper() + remedy[1:] for what, remedy in _ODD_REMEDIES.items() if what in kinds]
    return "".join(f" {hint}." for hint in told)


def _about_normalisation(names: Sequence[str], tensors: Mapping[str, Tensor], needs: Needs) -> str:
    """What the recipe says, or could say, of a normalisation that the file has."""
    values = {name: tensors[name].flatten().tolist() for name in names}
    if needs.constants:
        own = {role: needs.constants[f"norm.{role}"].flatten().tolist() for role in ("mean", "std")}
        differ = [f"{name} is {_numbers(value)}" for name, value in values.items()]
        return (
            f"{some(differ)}, but the recipe's model.args.normalise gives mean {_numbers(own['mean'])} and std"
            f" {_numbers(own['std'])}. Give the recipe the values that the network was trained with."
        )
    roles = {role_of(name): _numbers(value) for name, value in reversed(values.items())}
    given = ", ".join(f"{role}: {roles[role]}" for role in ("mean", "std") if role in roles)
    return (
        f"{some(names)} look like a normalisation, which belongs into the recipe unless the network does it in its"
        f" forward: model.args.normalise: {{{given}}}."
    )


def _numbers(values: Iterable[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def describe_misfit(
    content: object, there: Sequence[Table], allowed: Sequence[Table], needs: Needs, choice: Choice
) -> str:
    """Nothing that is allowed fits: why, what is nearest, and what would do.

    Args:
        content: of the file.
        there: all its tables.
        allowed: those that the recipe's choice leaves.
        needs: of the network.
        choice: what the recipe says.
    """
    if not there:
        return f"{_without_tensors(content)} {SAVE_AGAIN}."
    whole = [fit for table in there if not table.optimiser for fit in fits(table, needs) if fit.has_shapes(needs)]
    elsewhere = f" All of the network is there: {some(map(name_of, whole))}." if whole else ""
    if not allowed:
        keys = some(dict.fromkeys(repr(table.key) for table in there if choice.key is None or not table.optimiser))
        if choice.key is None:
            return f"what is in this file belongs to an optimiser, and is no network's: {keys}. {SAVE_AGAIN}."
        return f"model.key is {choice.key!r}, but no tensors are there; they are under {keys}.{elsewhere}"
    if choice.strip_prefix is not None and whole:
        return f"model.strip_prefix is {choice.strip_prefix!r}, but not all of the network is under it.{elsewhere}"
    named = [fit for table in allowed for fit in fits(table, needs, choice.strip_prefix)]
    best = named[0] if named else _nearest(allowed, needs)
    return f"{_differences(best, needs)}{elsewhere}{_comparison(best, needs)}"


def _without_tensors(content: object) -> str:
    if _holds_arrays(content):
        return (
            "this file holds arrays of numpy where a state dict has tensors: make it again, with"
            " {name: torch.from_numpy(array) for name, array in state.items()}."
        )
    if not isinstance(content, dict):
        return f"this file holds {type(content).__name__}, expected a state dict (names to tensors)."
    held = some(f"{name!r} ({_called(value)})" for name, value in content.items()) or "nothing at all"
    return f"a state dict maps names to dense tensors, and no dictionary in this file does; it holds {held}."


def _called(value: object) -> str:
    return "not read" if isinstance(value, NotRead) else type(value).__name__


def _holds_arrays(content: object, depth: int = 3) -> bool:
    """Whether a dictionary of the file has arrays of numpy by name."""
    if not isinstance(content, dict) or not depth:
        return False
    return any(isinstance(value, NumpyArray) or _holds_arrays(value, depth - 1) for value in content.values())


def _nearest(allowed: Sequence[Table], needs: Needs) -> Fit:
    """The table and prefix with most of the network's names, in their shapes."""
    own = {name.removeprefix(needs.roots[0]): name for name in needs.required}
    counts: Counter[tuple[int, str]] = Counter()
    for index, table in enumerate(allowed):
        for name, prefix, rest in endings(table.tensors, own):
            counts[index, prefix] += 1 + is_alike(table.tensors[name], needs.own[own[rest]])
    largest = max(range(len(allowed)), key=lambda index: len(allowed[index].tensors))
    index, prefix = counts.most_common(1)[0][0] if counts else (largest, "")
    table = allowed[index]
    root = needs.roots[0]
    places = {name: prefix + name.removeprefix(root) for name in (*needs.required, *needs.optional)}
    names = {name: place for name, place in places.items() if place in table.tensors}
    return Fit(table, prefix, root, names, inner=False)


def _differences(best: Fit, needs: Needs) -> str:
    """Names, shapes and kinds that are not the network's, in one paragraph."""
    given = {name: best.tensor(name) for name in best.names}
    found = {
        "missing": [name for name in needs.required if name not in given],
        "unexpected": sorted(best.left),
        "other shapes": [
            f"{name} (given {list(value.shape)}, expected {list(needs.own[name].shape)})"
            for name, value in given.items()
            if value.shape != needs.own[name].shape
        ],
        "other types": [
            f"{name} (given {value.dtype}, expected {needs.own[name].dtype})"
            for name, value in given.items()
            if kind(value) != kind(needs.own[name])
        ],
        "no weights": [f"{name} ({what})" for name, what in best.table.odd.items()],
    }
    told = [f"{what}: {some(names)}" for what, names in found.items() if names]
    nearest = f" Nearest is {_where(best)}." if best.names and (best.table.key or best.prefix) else ""
    return (
        f"these weights do not fit the network of the recipe.{nearest} {'. '.join(told)}."
        f" Check model.name and model.args, or take the weights of this network."
        f"{_hints(best.left, best.table.odd.values())}"
    )


def _comparison(best: Fit, needs: Needs) -> str:
    """A table of what the network needs and what in the file is most like it."""
    rows = []
    left = best.left
    for name, own in needs.own.items():
        if name in best.names and not is_alike(best.tensor(name), own):
            rows.append((name, best.names[name]))
        elif name in needs.required and name not in best.names and len(rows) < _SHOWN:
            near = _most_alike(name, own, left, best)
            rows.append((name, near))
            left = [other for other in left if other != near]
    if not rows:
        return ""
    tensors = best.table.tensors
    lines = [
        (f"{name} {list(needs.own[name].shape)}", f"{near} {list(tensors[near].shape)}" if near else "nothing like it")
        for name, near in rows[:_SHOWN]
    ]
    lines = [("the network needs", "nearest in the file"), *lines]
    width = max(len(needed) for needed, _ in lines)
    return "".join(f"\n  {needed:<{width}}  {near}" for needed, near in lines)


def _most_alike(name: str, own: Tensor, left: Sequence[str], best: Fit) -> str:
    """Of what the file has left, a tensor of this shape if there is one, with the name that is most like; or ''."""
    alike = [other for other in left if best.table.tensors[other].shape == own.shape]
    dimensions = [other for other in left if best.table.tensors[other].dim() == own.dim()]

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name, other.removeprefix(best.prefix)).ratio()

    return max((alike or dimensions)[:_COMPARED], key=likeness, default="")


def name_of(fit: Fit) -> str:
    """A state by its place in the file."""
    key, prefix = repr(fit.table.key), repr(fit.prefix)
    if fit.table.key and fit.prefix:
        return f"{key} under {prefix}"
    return key if fit.table.key else f"what begins with {prefix}" if fit.prefix else "the top of the file"


def _where(fit: Fit) -> str:
    places = [f"in {fit.table.key!r}"] if fit.table.key else []
    places += [f"under {fit.prefix!r}"] if fit.prefix else ["by its own names"]
    return " ".join(places)


def _setting(fit: Fit, different: Sequence[Fit]) -> str:
    """What of the recipe tells this state from the others."""
    keys, prefixes = {other.table.key for other in different}, {other.prefix for other in different}
    plain = re.fullmatch(r"[A-Za-z_][\w.]*", fit.table.key)
    parts = [f"model.key: {fit.table.key if plain else json.dumps(fit.table.key)}"] if len(keys) > 1 else []
    of_key = {other.prefix for other in different if other.table.key == fit.table.key}
    parts += [f"model.strip_prefix: {json.dumps(fit.prefix)}"] if len(of_key) > 1 and len(prefixes) > 1 else []
    return " with ".join(parts)


def some(names: Iterable[str]) -> str:
    """The first few of a list, and how many there are."""
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
