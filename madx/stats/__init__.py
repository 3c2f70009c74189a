"""Statistics of the release gates and of rankings: numpy and scipy only, no randomness, no files.

One module per question: `paired` (two engines on the same images), `ratios` (which share of the successes is kept),
`shares` (one engine's accuracy), `betting` (the same three while images still come in), `ranks` (paired timings, and
how two rankings agree), `means` (from few draws), `percentiles` (of calls that resemble their neighbours). Every limit
is ONE-SIDED at the stated confidence, so a pair of limits at 0.95 is a two-sided 90 % interval.
"""

from madx.stats.betting import betting_drop, betting_retention, betting_share, planned_bets
from madx.stats.means import student_limits, student_reach
from madx.stats.paired import drop_interval, planned_images, tango_interval, tango_statistic
from madx.stats.percentiles import Percentile, percentile, samples_needed
from madx.stats.ranks import hodges_lehmann, signed_rank_cut, spearman
from madx.stats.ratios import retention_interval, retention_statistic
from madx.stats.shares import clopper_pearson, planned_shares

__all__ = [
    "Percentile",
    "betting_drop",
    "betting_retention",
    "betting_share",
    "clopper_pearson",
    "drop_interval",
    "hodges_lehmann",
    "percentile",
    "planned_bets",
    "planned_images",
    "planned_shares",
    "retention_interval",
    "retention_statistic",
    "samples_needed",
    "signed_rank_cut",
    "spearman",
    "student_limits",
    "student_reach",
    "tango_interval",
    "tango_statistic",
]
