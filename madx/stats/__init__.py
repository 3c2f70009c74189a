"""Statistics of the release gates and of rankings: numpy and scipy only, no randomness, no files.

One module per question: `paired` (two engines on the same images), `shares` (one engine's accuracy), `ranks`
(paired timings, and how two rankings agree), `percentiles` (of calls that resemble their neighbours). Every limit is
ONE-SIDED at the stated confidence, so a pair of limits at 0.95 is a two-sided 90 % interval.
"""

from madx.stats.paired import planned_images, tango_interval, tango_statistic, tango_test
from madx.stats.percentiles import Percentile, percentile, samples_needed
from madx.stats.ranks import hodges_lehmann, signed_rank_cut, spearman
from madx.stats.shares import clopper_pearson

__all__ = [
    "Percentile",
    "clopper_pearson",
    "hodges_lehmann",
    "percentile",
    "planned_images",
    "samples_needed",
    "signed_rank_cut",
    "spearman",
    "tango_interval",
    "tango_statistic",
    "tango_test",
]
