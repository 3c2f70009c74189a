"""Adversarial training and masked fine-tuning: one loop, its losses, and the recalibration of BatchNorm."""

from madx.train.batchnorm import recalibrate_
from madx.train.evaluation import Evaluation, evaluate
from madx.train.job import TrainingJob
from madx.train.loop import train_

__all__ = ["Evaluation", "TrainingJob", "evaluate", "recalibrate_", "train_"]
