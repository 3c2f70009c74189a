"""What is shown of a saliency: every entry is counted once, in the right bin, on the right side of the threshold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_networks import plain
from torch import Tensor, nn

from madx.prune import summarise, unstructured_masks
from madx.prune.layers import scored_parameters
from madx.seeds import torch_generator


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain().eval()


def scores_of(network: nn.Module, kind: str) -> dict[str, Tensor]:
    """Heavy tails over many decades, some exact zeros."""
    scores = {}
    for name, parameter in scored_parameters(network).items():
        generator = torch_generator(0, kind, name)
        noise = torch.randn(parameter.shape, generator=generator)
        sizes = 10 ** (3 * torch.randn(parameter.shape, generator=generator) - 7)
        sign = {"signed": noise.sign(), "positive": 1.0, "negative": -1.0, "zero": 0.0}[kind]
        scores[name] = torch.where(noise.abs() < 0.3, 0.0, sign * sizes)
    return scores


@pytest.mark.parametrize("kind", ["signed", "positive", "negative", "zero"])
def test_every_entry_is_in_one_bin(kind: str, network: nn.Module) -> None:
    scores = scores_of(network, kind)
    masks = unstructured_masks(network, scores, 0.6)
    summary = summarise(network, scores, masks)
    edges = np.array(summary.edges)
    assert (np.diff(edges) > 0).all()
    assert edges[0] < 0 < edges[-1]
    names = list(scores)
    assert [layer.name for layer in summary.layers] == list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    for layer in summary.layers:
        own = [name for name in names if name.rpartition(".")[0] == layer.name]
        values = torch.cat([scores[name].flatten() for name in own]).double().numpy()
        kept = torch.cat([masks[name].flatten() for name in own]).numpy()
        assert (layer.entries, layer.kept) == (values.size, kept.sum())
        assert layer.mean == pytest.approx(values.mean())
        assert (layer.negative, layer.zero) == pytest.approx(((values < 0).mean(), (values == 0).mean()))
        for counts, part in ((layer.kept_counts, values[kept]), (layer.removed_counts, values[~kept])):
            assert sum(counts) == part.size
            places = np.searchsorted(edges, part, side="right") - 1
            places[part == edges[-1]] = len(edges) - 2
            assert list(counts) == np.bincount(places, minlength=len(edges) - 1).tolist()
        assert layer.quantiles[3] == pytest.approx(float(np.median(values)))


@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_the_threshold_parts_kept_from_removed_convolution_entries(kind: str, network: nn.Module) -> None:
    scores = scores_of(network, kind)
    masks = unstructured_masks(network, scores, 0.6)
    threshold = summarise(network, scores, masks).threshold
    assert threshold is not None
    for name in (name for name in scores if not name.startswith("4.")):
        assert (scores[name][masks[name]] >= threshold).all()
        assert (scores[name][~masks[name]] <= threshold).all()


def test_there_is_no_threshold_where_none_decides(network: nn.Module) -> None:
    scores = scores_of(network, "signed")
    upside_down = {name: ~mask for name, mask in unstructured_masks(network, scores, 0.6).items()}
    assert summarise(network, scores, upside_down).threshold is None
    assert summarise(network, scores, {}).threshold is None


def test_a_parameter_without_a_mask_is_whole_and_one_without_scores_is_left_out(network: nn.Module) -> None:
    scores = {name: score for name, score in scores_of(network, "signed").items() if not name.startswith("1.0.")}
    summary = summarise(network, scores, {})
    assert "1.0" not in [layer.name for layer in summary.layers]
    assert all(layer.kept == layer.entries for layer in summary.layers)


def test_a_few_tiny_scores_do_not_squeeze_the_rest() -> None:
    network = nn.Sequential(nn.Conv2d(10, 10, 3, bias=False))
    score = torch.full((10, 10, 3, 3), 1e-3)
    score.flatten()[:5] = 1e-30
    summary = summarise(network, {"0.weight": score}, {})
    assert summary.edges[0] >= -1e-3
    assert len(summary.edges) < 12
    assert summary.layers[0].kept_counts[0] == 5


def test_it_is_json(network: nn.Module) -> None:
    content = json.loads(json.dumps(summarise(network, scores_of(network, "signed"), {}).to_json(), allow_nan=False))
    assert len(content["layers"][0]["quantiles"]) == len(content["quantile_levels"])
    assert len(content["edges"]) == len(content["layers"][0]["kept_counts"]) + 1
