import math

import numpy as np
import report_cases as cases

from madx.report import latency_views
from madx.verify.timings import block_medians


def test_medians_are_of_all_blocks():
    latency = cases.latency(noise=0.3)
    dense, pruned = latency_views.time_rows(latency)
    assert dense.median == np.median(block_medians(latency.reference))
    assert pruned.median == np.median(block_medians(latency.candidate))
    assert dense.low < dense.median < dense.high


def test_a_ratio_without_limits_says_so():
    assert "too few pairs for limits" in latency_views.Ratio(1.5, 0.0, math.inf, 0.95).text
    control = latency_views.control(cases.latency(pairs=30))
    assert control.lower < 1 < control.upper
