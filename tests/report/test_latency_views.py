import math
from dataclasses import replace

import numpy as np
import pytest
import report_cases as cases

from madx.report import latency_views, words
from madx.sensors import SOURCES
from madx.verify.timings import block_medians


def test_medians_are_of_all_blocks():
    latency = cases.latency(noise=0.3)
    dense, pruned = latency_views.time_rows(latency, ("baseline", "pruned"))
    assert (dense.label, pruned.label) == ("baseline", "pruned")
    assert dense.median == np.median(block_medians(latency.reference))
    assert pruned.median == np.median(block_medians(latency.candidate))
    assert dense.low < dense.median < dense.high


def test_a_ratio_without_limits_says_so():
    assert "too few pairs for limits" in latency_views.Ratio(1.5, 0.0, math.inf, 0.95).text
    control = latency_views.control(cases.latency(pairs=30))
    assert control.lower < 1 < control.upper


def test_the_report_says_what_each_clock_came_to():
    latency = cases.latency()
    said = latency_views.by_clock(latency, ())
    assert said.startswith("Speed-up by the wall clock 2.")
    assert "; by CPU time 2." in said
    assert "of engines of one thread" in latency_views.by_clock(replace(latency, cpu=None), ())
    assert "does not count" in latency_views.by_clock(replace(latency, cpu=2 * latency.cpu), ())


def test_percentiles_are_printed_where_carried_and_explained_where_not():
    latency = cases.latency(pairs=40)
    rows = {row.label: row for row in latency_views.percentile_rows(latency)}
    calls = np.sort(latency.reference, axis=None)
    assert rows["p90"].reference == f"{1000 * calls[math.ceil(0.9 * calls.size) - 1]:.3g} ms"
    assert "of 6,636" in rows["p99.9"].reference
    assert "not carried" in rows["p99.9"].candidate


def test_a_few_calls_carry_a_median_and_no_tail():
    rows = {row.label: row for row in latency_views.percentile_rows(cases.latency(pairs=8))}
    assert rows["p50"].reference.endswith(" ms")
    assert latency_views.tail(cases.latency(pairs=8)) == ("not carried", "not carried")


def test_the_ladder_says_of_every_step_what_its_limits_show():
    rows = latency_views.ladder_rows(cases.ladder())
    assert [row.name for row in rows] == list(cases.RUNGS)
    assert [float(row.median.removesuffix(" ms")) for row in rows] == pytest.approx([2, 1, 0.8, 0.8], rel=0.01)
    assert [row.word for row in rows] == ["", "faster", "faster", "no difference shown"]
    estimates = [float(row.bought.partition(words.TIMES)[0]) for row in rows[1:]]
    assert estimates == pytest.approx([2.0, 1.25, 1.0], rel=0.01)
    assert latency_views.ladder_rows(None) == ()


def test_a_step_down_is_called_one():
    ladder = cases.ladder(seconds=(1e-3, 2e-3))
    assert latency_views.ladder_rows(ladder)[1].word == "slower"


def test_the_sentences_give_the_whole_way_and_what_is_missing():
    first, _, last = latency_views.ladder_sentences(cases.ladder(missing={"dense, fp16": "no GPU here"}))
    assert f"from {cases.RUNGS[0]} to {cases.RUNGS[-1]}: 2.5" in first
    assert last == "The rung dense, fp16 is missing: no GPU here."


def test_the_machine_is_shown_and_what_it_cannot_tell_is_named():
    latency = cases.latency()
    rows = {row.label: row for row in latency_views.machine_rows(latency)}
    assert rows[SOURCES["cpu_mhz"]].median == "2,600"
    assert (rows[SOURCES["waiting"]].low, rows[SOURCES["waiting"]].high) == ("0.2 %", "40.0 %")
    assert SOURCES["steal"] in latency_views.unknown_sources(latency)
    assert not set(rows) & set(latency_views.unknown_sources(latency))
    assert latency_views.disturbances(latency) == ("its threads waited for a CPU in 2 of 40 pairs",)
    assert latency_views.disturbances(cases.latency(disturbed=0)) == ()
