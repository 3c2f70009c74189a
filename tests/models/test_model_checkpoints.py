"""Checkpoints as training scripts write them: what is one network loads and is said, what is not is asked about."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import network, refused, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from madx.errors import ModelError
from madx.models import Choice, Found, Normalise, Normalised, find_state, load_weights, state_digest
from madx.models.states import is_counter

State = dict[str, Tensor]


def taken(content: Any, tmp_path: Path, *, normalise: Any = None, **choice: str) -> Found:
    """What is told of a file whose weights must be those of seed 1, bit for bit."""
    args = {} if normalise is None else {"normalise": normalise}
    target = network(seed=2, **args)
    found = load_weights(target, save(content, tmp_path / "weights.pt"), Choice(**choice))
    assert state_digest(target) == state_digest(filled(network(seed=1, **args), state()))
    return found


def asked(content: Any, tmp_path: Path, *, normalise: Any = None, **choice: str) -> str:
    args = {} if normalise is None else {"normalise": normalise}
    return refused(network(seed=2, **args), save(content, tmp_path / "weights.pt"), **choice)


def filled(module: nn.Module, values: State) -> nn.Module:
    module.load_state_dict(values, strict=False)
    return module


def state() -> State:
    """Of the network that is to be loaded; its statistics and counters are not those of a fresh one."""
    found = network(seed=1).state_dict()
    return {name: value + 3 if is_counter(name) else value + 0.25 for name, value in found.items()}


def other(by: int = 1) -> State:
    """Weights of the same shapes with other values."""
    return {name: value + by for name, value in state().items()}


def under(prefix: str, values: State | None = None) -> State:
    return {f"{prefix}{name}": value for name, value in (values or state()).items()}


def adam() -> dict[str, Any]:
    """The state of an optimiser after a step."""
    module = network()
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.rand(4, 1, 8, 8)).sum().backward()
    optimiser.step()
    return optimiser.state_dict()


def averaged() -> State:
    return dict(AveragedModel(filled(network(), state())).state_dict())


# -- one network, however it is wrapped ----------------------------------------------------------------------

LOADS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "compiled": (lambda: under("_orig_mod."), ["'_orig_mod.' taken off"]),
    "parallel": (lambda: under("module."), ["'module.' taken off"]),
    "parallel and compiled": (
        lambda: {"state_dict": under("module._orig_mod."), "epoch": 9, "optimizer": adam()},
        ["the state 'state_dict'", "'module._orig_mod.' taken off", "not read: 'epoch', 'optimizer'"],
    ),
    "lightning": (
        lambda: {"state_dict": under("model."), "optimizer_states": [adam()], "callbacks": {"x": {"best": None}}},
        ["the state 'state_dict'", "'model.' taken off", "not read: 'optimizer_states', 'callbacks'"],
    ),
    "under any name": (lambda: under("classifier.backbone."), ["'classifier.backbone.' taken off"]),
    "the second of a Sequential": (lambda: under("1."), ["'1.' taken off"]),
    "averaged": (averaged, ["'module.' taken off", "left out: n_averaged"]),
    "averaged, compiled": (
        lambda: {**under("module._orig_mod."), "n_averaged": torch.tensor(7)},
        ["'module._orig_mod.' taken off", "left out: n_averaged"],
    ),
    "average alone": (lambda: {"ema_state_dict": state(), "epoch": 9}, ["the state 'ema_state_dict'"]),
    "in a callback": (lambda: {"callbacks": {"EMA": {"shadow": state()}}}, ["the state 'callbacks.EMA.shadow'"]),
    "in a list": (lambda: [state(), adam()], ["the state '0'"]),
    "twice the same": (
        lambda: {"model": state(), "best": under("module.", copy.deepcopy(state()))},
        ["the state 'model'", "the same as 'best' under 'module.'"],
    ),
    "network and equal average in one": (
        lambda: {**under("ema.module."), "ema.n_averaged": torch.tensor(3), **under("model.")},
        ["'model.' taken off", "the same as what begins with 'ema.module.'", "left out: ema.n_averaged"],
    ),
    "the same in more digits": (
        lambda: {"model": state(), "ema": {n: v.double() if v.is_floating_point() else v for n, v in state().items()}},
        ["the state 'model'", "the same as 'ema'"],
    ),
    "parts in dictionaries of their own": (
        lambda: {
            "net": {
                "linear": {"weight": state()["linear.weight"], "bias": state()["linear.bias"]},
                **{n: v for n, v in state().items() if not n.startswith("linear")},
            },
            "optimizer": {"exp_avg": parameters()},
        },
        ["the state 'net'; not read: 'optimizer'"],
    ),
    "student and equal teacher": (
        lambda: {**under("student."), **under("teacher.")},
        ["'student.' taken off", "the same as what begins with 'teacher.'"],
    ),
    "parallel inside": (
        lambda: {name.replace("conv1.", "conv1.module."): value for name, value in state().items()},
        ["torch's wrappers taken off inside"],
    ),
    "compiled inside": (
        lambda: {name.replace("linear.", "linear._orig_mod."): value for name, value in under("module.").items()},
        ["torch's wrappers taken off inside"],
    ),
    "numbers beside the weights": (lambda: {**state(), "epoch": 9, "name": "mine"}, ["not read: 'epoch', 'name'"]),
    "parameters, not tensors": (
        lambda: {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in state().items()},
        [],
    ),
    "an average without buffers": (
        lambda: {"step": 3, "model": state(), "ema": {"linear.bias": torch.zeros(3)}},
        ["the state 'model'", "not read: 'ema', 'step'"],
    ),
}


@pytest.mark.parametrize("name", LOADS)
def test_one_network_loads_and_is_said(name: str, tmp_path: Path) -> None:
    content, words = LOADS[name]
    told = taken(content(), tmp_path).describe()
    assert [word for word in words if word not in told] == []


def test_of_a_plain_state_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert taken(state(), tmp_path).describe() == ""


def test_what_was_taken_is_recorded(tmp_path: Path) -> None:
    found = taken({"state_dict": under("model.")}, tmp_path)
    assert found.to_json() == {"state": "state_dict", "prefix": "model.", "notes": list(found.notes)}


def test_counters_that_are_missing_are_zero(tmp_path: Path) -> None:
    target = filled(network(seed=2), {"bn1.num_batches_tracked": torch.tensor(99)})
    values = {name: value for name, value in state().items() if not is_counter(name)}
    found = load_weights(target, save(values, tmp_path / "old.pt"))
    loaded = target.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in values.items())
    assert all(loaded[name] == 0 for name in loaded.keys() - values.keys())
    assert f"{len(loaded) - len(values)} num_batches_tracked are not there" in found.describe()


def test_counters_of_a_layer_that_does_not_count_are_left_out(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_var", torch.rand(4))

    source, target = (nn.Sequential(nn.Conv2d(1, 4, 1), Frozen()) for _ in range(2))
    values = {**source.state_dict(), "1.num_batches_tracked": torch.tensor(5)}
    found = load_weights(target, save(values, tmp_path / "weights.pt"))
    assert state_digest(target) == state_digest(source)
    assert found.describe() == "left out: 1.num_batches_tracked"


def test_a_network_in_a_wrapper_takes_the_file_of_what_is_inside(tmp_path: Path) -> None:
    inside = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    target = nn.Sequential(OrderedDict(inner=copy.deepcopy(inside).requires_grad_(False)))
    nn.init.zeros_(target.inner[0].weight)
    found = load_weights(target, save(inside.state_dict(), tmp_path / "weights.pt"))
    assert state_digest(target.inner) == state_digest(inside)
    assert "'inner.' put before its names" in found.describe()


def test_a_layers_name_is_no_wrapper(tmp_path: Path) -> None:
    target = nn.Sequential(OrderedDict(head=nn.Linear(3, 2)))
    body = nn.Sequential(OrderedDict(body=nn.Linear(3, 2)))
    assert "missing: head.weight" in refused(target, save(body.state_dict(), tmp_path / "weights.pt"))


def test_a_tied_tensor_may_be_saved_once(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        one = nn.Linear(3, 3)
        two = nn.Linear(3, 3)
        two.weight = one.weight
        return nn.Sequential(one, two)

    source, target = tied(), tied()
    values = source.state_dict()
    load_weights(target, save({n: v for n, v in values.items() if n != "1.weight"}, tmp_path / "once.safetensors"))
    assert state_digest(target) == state_digest(source)
    message = refused(target, save({**values, "1.weight": values["0.weight"] + 1}, tmp_path / "weights.pt"))
    assert "0.weight and 1.weight are one tensor" in message


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("older", [True, False])
def test_weight_norm_of_another_version_of_torch_loads(older: bool, tmp_path: Path) -> None:
    """What torch's own reading does too: weight_g and weight_v are original0 and original1."""

    def made(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
        return nn.Sequential(norm(nn.Conv2d(1, 4, 3)), norm(nn.Linear(4, 3)))

    kinds = (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm)
    source, target = (made(kind) for kind in (kinds if older else kinds[::-1]))
    found = load_weights(target, save(source.state_dict(), tmp_path / "weights.pt"))
    assert "another version of torch's weight_norm" in found.describe()
    for one, other in zip(source, target, strict=True):
        nn.utils.parametrize.remove_parametrizations(*((other, "weight") if older else (one, "weight")))
        nn.utils.remove_weight_norm(one if older else other)
        torch.testing.assert_close(one.weight, other.weight)


# -- what is asked about, and the setting that answers --------------------------------------------------------

WHICH: dict[str, tuple[Callable[[], Any], str, dict[str, str]]] = {
    "network and average": (
        lambda: {"model": other(), "model_ema": state(), "epoch": 9},
        "model.key: model or model.key: model_ema",
        {"key": "model_ema"},
    ),
    "deeper in the file": (
        lambda: {"state_dict": other(), "callbacks": {"EMA": {"state dict": under("module.")}}},
        'model.key: "callbacks.EMA.state dict"',
        {"key": "callbacks.EMA.state dict"},
    ),
    "the callback is enough": (
        lambda: {"state_dict": other(), "callbacks": {"EMA": {"shadow": state()}}},
        "model.key: callbacks.EMA.shadow",
        {"key": "callbacks"},
    ),
    "top and inside": (lambda: {**state(), "ema": other()}, 'model.key: ""', {"key": ""}),
    "student and teacher": (
        lambda: {"state_dict": {**under("student."), **under("teacher.", other())}},
        'model.strip_prefix: "student." or model.strip_prefix: "teacher."',
        {"strip_prefix": "student."},
    ),
    "names clash without the prefix": (
        lambda: {**under("module."), **other()},
        'model.strip_prefix: "module." or model.strip_prefix: ""',
        {"strip_prefix": "module."},
    ),
    "both": (
        lambda: {"last": other(2), "best": {**under("net."), **under("ema.", other())}},
        'model.key: best with model.strip_prefix: "ema."',
        {"key": "best", "strip_prefix": "net."},
    ),
    "a weight of the loss": (
        lambda: {"state_dict": under("model.") | {"criterion.weight": torch.ones(3)}},
        "under 'model.', and beside it stands what may mean something: criterion.weight [3]. To take the network and "
        'leave the rest: model.strip_prefix: "model.".',
        {"strip_prefix": "model."},
    ),
    "a lone name that clashes": (
        lambda: under("module.") | {"linear.bias": torch.ones(3)},
        "linear.bias [3]",
        {"strip_prefix": "module."},
    ),
    "more layers than the network": (
        lambda: {**state(), "extra.weight": torch.ones(2)},
        'model.strip_prefix: "".',
        {"strip_prefix": ""},
    ),
    "attacker": (
        lambda: {
            "model": under("module.model.")
            | under("module.attacker.model.")
            | {f"module.{part}normalize.new_mean": torch.zeros(3, 1, 1) for part in ("", "attacker.")}
        },
        'model.strip_prefix: "module.model.".',
        {"strip_prefix": "module.model."},
    ),
    "a prefix without a dot": (
        lambda: {**under("ema_"), **under("net.", other()), "x": torch.zeros(1)},
        "all of the network is there, under 'net.'",
        {"strip_prefix": "ema_"},
    ),
}


def renamed(*names: str, by: Callable[[Tensor], Tensor] = lambda value: value) -> State:
    """The state with the first convolution's weight under other names, or as another kind of tensor."""
    values = state()
    weight = values.pop("conv1.weight")
    return values | {f"conv1.{name}": by(weight) for name in names}


TOLD: dict[str, tuple[Callable[[], Any], str]] = {
    "masks": (lambda: renamed("weight_orig", "weight_mask"), "call its remove() for each layer"),
    "weight_norm": (lambda: renamed("weight_g", "weight_v"), "torch.nn.utils.remove_weight_norm"),
    "spectral_norm": (lambda: renamed("weight_orig", "weight_u"), "torch.nn.utils.remove_spectral_norm"),
    "parametrised": (lambda: renamed("parametrizations.weight.original"), "remove_parametrizations before saving"),
    "sparse": (lambda: renamed("weight", by=lambda value: value.to_sparse()), "Save value.to_dense()"),
    "quantised": (
        lambda: renamed("weight", by=lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)),
        "Save value.dequantize()",
    ),
    "without data": (lambda: renamed("weight", by=lambda value: value.to("meta")), "on the device 'meta'"),
    "low rank": (lambda: state() | {"linear.lora_A": torch.ones(2, 8)}, "merge them before saving"),
    "plural": (lambda: under("model.") | {"norm.means": torch.zeros(1)}, "model.args.normalise: {mean: [0]}"),
}


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*")
@pytest.mark.parametrize("name", TOLD)
def test_what_names_and_kinds_tell_of_how_a_file_was_made_is_told(name: str, tmp_path: Path) -> None:
    content, words = TOLD[name]
    assert words in asked(content(), tmp_path)


@pytest.mark.parametrize("name", WHICH)
def test_what_is_not_clear_is_asked_and_the_answer_loads(name: str, tmp_path: Path) -> None:
    content, question, answer = WHICH[name]
    assert question in asked(content(), tmp_path)
    taken(content(), tmp_path, **answer)


def test_parts_of_two_networks_are_asked_about(tmp_path: Path) -> None:
    parts = {"linear": {"weight": state()["linear.weight"], "bias": state()["linear.bias"]}}
    rest = {name: value for name, value in state().items() if not name.startswith("linear")}
    message = asked({**rest, **parts, "second": copy.deepcopy(parts)}, tmp_path)
    assert "second.linear.weight [3, 8]" in message
    assert (
        "left out: second.linear.weight, second.linear.bias"
        in taken({**rest, **parts, "second": parts}, tmp_path, strip_prefix="").describe()
    )


def test_parts_whose_names_clash_are_not_joined(tmp_path: Path) -> None:
    rest = {name: value for name, value in state().items() if name != "linear.bias"}
    content = {**rest, "linear": {"bias": torch.zeros(3), "weight": torch.zeros(3, 8)}}
    assert "missing: linear.bias" in asked(content, tmp_path)


def test_states_in_one_place_by_name_are_to_be_saved_alone(tmp_path: Path) -> None:
    assert "Save the one that is meant alone" in asked({"a": {"b.c": state()}, "a.b": {"c": other()}}, tmp_path)


# -- weights in other shapes, as the twin of an engine has them -------------------------------------------------


def smaller() -> State:
    """The last layer reads half of what it did."""
    return {**state(), "linear.weight": state()["linear.weight"][:, :4].clone()}


def test_a_state_in_other_shapes_is_found_where_it_is_wanted(tmp_path: Path) -> None:
    path = save({"state_dict": under("module.", smaller()), "optimizer": adam()}, tmp_path / "pruned.pt")
    found = find_state(network(), path, any_shape=True)
    assert not found.same_shapes
    assert all(torch.equal(found.state[name], value) for name, value in smaller().items())
    assert "other shapes: linear.weight (given [3, 4], expected [3, 8])" in refused(network(), path)
    both = save({"small": smaller(), "whole": state()}, tmp_path / "both.pt")
    assert find_state(network(), both).key == "whole"
    with pytest.raises(ModelError, match=r"2 states .* differ: .*small"):  # the twin of a pruned engine may be either
        find_state(network(), both, any_shape=True)


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    """One number, repeated by a stride of zero, could be terabytes."""
    huge = torch.ones(1).expand(3, 2**40)
    path = save({**state(), "linear.weight": huge}, tmp_path / "huge.pt")
    assert path.stat().st_size < 1e6
    with pytest.raises(ModelError, match=r"more numbers than the file has .*linear.weight \[3, 1099511627776\]"):
        find_state(network(), path, any_shape=True)


def test_of_one_failed_training_nobody_asks_which_state_is_meant(tmp_path: Path) -> None:
    broken = {**state(), "linear.bias": torch.full((3,), torch.nan)}
    assert "not finite" in asked({"model": broken, "best": {n: v.clone() for n, v in broken.items()}}, tmp_path)


def test_of_a_twin_no_setting_is_advised(tmp_path: Path) -> None:
    path = save({"model": smaller()}, tmp_path / "weights.pt")
    assert find_state(network(), path, Choice(settable=False), any_shape=True).key == "model"
    for content in ({"a": state(), "b": other()}, {**state(), "extra": torch.zeros(1)}):
        with pytest.raises(ModelError) as caught:
            find_state(network(), save(content, tmp_path / "weights.pt"), Choice(settable=False))
        assert "alone, in a file of its own" in str(caught.value)
        assert "model." not in str(caught.value)


def test_the_rest_that_is_left_out_is_said(tmp_path: Path) -> None:
    content = under("model.") | {"criterion.weight": torch.ones(3)}
    assert "left out: criterion.weight" in taken(content, tmp_path, strip_prefix="model.").describe()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"key": "ema"}, ["model.key is 'ema'", "they are under 'model'", "All of the network is there: 'model'"]),
        ({"strip_prefix": "model"}, ["model.strip_prefix is 'model'", "All of the network is there: 'model'"]),
    ],
)
def test_an_answer_that_is_wrong_is_told_what_there_is(
    choice: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    message = asked({"model": under("module.")}, tmp_path, **choice)
    assert [word for word in words if word not in message] == []


def test_nearest_names_and_shapes_are_shown(tmp_path: Path) -> None:
    renamed = {name.replace("linear", "fc"): value for name, value in under("module.").items()}
    message = asked({"state_dict": renamed}, tmp_path)
    assert "Nearest is in 'state_dict' under 'module.'" in message
    heading, *rows = [line.split("  ") for line in message.split("\n")[1:]]
    assert [row[1] for row in (heading, *rows)] == ["the network needs", "linear.weight [3, 8]", "linear.bias [3]"]
    assert [row[-1].strip() for row in rows] == ["module.fc.weight [3, 8]", "module.fc.bias [3]"]


def test_a_cast_is_said(tmp_path: Path) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in state().items()}
    found = load_weights(network(), save(half, tmp_path / "weights.pt"))
    assert found.describe() == "cast from torch.float16"


# -- normalisation --------------------------------------------------------------------------------------------

NORMALISE = {"mean": [0.3], "std": [0.4]}
NAMES = [("0.mean", "0.std", "1."), ("normalize.new_mean", "normalize.new_std", "model."), ("mu", "sigma", "net.")]


@pytest.mark.parametrize(("mean", "std", "prefix"), NAMES)
def test_a_normalisation_in_the_file_is_held_against_the_recipes(
    mean: str, std: str, prefix: str, tmp_path: Path
) -> None:
    def content(value: float) -> State:
        return {mean: torch.full((1, 1, 1, 1), value), std: torch.full((1, 1, 1, 1), 0.4), **under(prefix)}

    unknown = asked(content(0.3), tmp_path)
    assert "model.args.normalise: {mean: [0.3], std: [0.4]}" in unknown
    assert f'model.strip_prefix: "{prefix}"' in unknown
    assert f"left out: {mean}, {std}" in taken(content(0.3), tmp_path, normalise=NORMALISE).describe()
    taken(content(0.3), tmp_path, normalise=NORMALISE, strip_prefix=prefix)
    assert f"{mean} is [0.5], " in asked(content(0.5), tmp_path, normalise=NORMALISE)
    assert f"left out: {mean}" in taken(content(0.5), tmp_path, normalise=NORMALISE, strip_prefix=prefix).describe()


def test_running_statistics_are_no_normalisation(tmp_path: Path) -> None:
    content = {**state(), "old.running_mean": torch.tensor([0.3])}
    assert "old.running_mean [1]" in asked(content, tmp_path, normalise=NORMALISE)


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.net.", "1.", "_orig_mod."])
def test_a_users_network_behind_the_recipes_normalisation_takes_any_prefix(prefix: str, tmp_path: Path) -> None:
    inside = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    target = Normalised(Normalise([0.5], [0.5]), copy.deepcopy(inside))
    nn.init.zeros_(target.net[0].weight)
    load_weights(target, save(under(prefix, inside.state_dict()), tmp_path / "weights.pt"))
    assert state_digest(target.net) == state_digest(inside)
    assert target.norm.mean.item() == 0.5


@pytest.mark.parametrize("key", ["momentum_model", "model_opt", "velocity", "exp_avg"])
def test_a_network_that_is_called_as_an_optimisers_is_asked_about(key: str, tmp_path: Path) -> None:
    """It has the statistics of BatchNorm, which no optimiser keeps."""
    content = {"model": other(), key: state()}
    assert f"model.key: {key}" in asked(content, tmp_path)
    taken(content, tmp_path, key=key)
    taken({"model": state(), key: state()}, tmp_path)  # one network, twice


def parameters() -> State:
    """What an optimiser can have of each weight: of statistics it has nothing."""
    named = {name for name, _ in network().named_parameters()}
    return {name: value + 5 for name, value in state().items() if name in named}


# -- what is never a network ----------------------------------------------------------------------------------

NEVER: dict[str, Callable[[], Any]] = {
    "moments by the weights' names": lambda: {"optimizer": {"exp_avg": parameters(), "exp_avg_sq": parameters()}},
    "moments at the top": lambda: {"exp_avg": parameters(), "exp_avg_sq": parameters(), "step": 3},
    "momentum": lambda: {"momentum_buffer": parameters()},
    "gradients": lambda: {"grads": parameters()},
    "a whole optimiser": lambda: {"state": {"model": state()}, "param_groups": [{"lr": 0.1}]},
    "adam": adam,
}


@pytest.mark.parametrize("name", NEVER)
def test_what_an_optimiser_keeps_is_never_taken(name: str, tmp_path: Path) -> None:
    asked(NEVER[name](), tmp_path)
    taken({"weights": state(), "training": NEVER[name]()}, tmp_path)
