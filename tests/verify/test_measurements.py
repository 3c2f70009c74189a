"""Measurements survive the way to a .npz file and back, and refuse what does not fit together."""

import io
from dataclasses import replace

import numpy as np
import pytest
from accuracy_cases import gallery, sound, unseen

from madx.errors import ArtifactError, MadxError
from madx.verify import Accuracy, Curve, EngineParity, Latency, Measurements, Parity, Sizes
from madx.verify.contract import ManyAnswers


def accuracy(**fields):
    return Accuracy(
        **{
            "index": np.array([4, 0, 9]),
            "labels": np.array([1, 2, 0]),
            "clean_reference": np.array([True, True, False]),
            "clean_candidate": np.array([True, False, True]),
            "attacks": ("pgd on the dense twin", "pgd on the pruned twin"),
            "attacked": np.array([[True, True, True], [True, True, False]]),
            "standing_reference": np.array([[True, True, False], [False, True, False]]),
            "standing_candidate": np.array([[True, False, False], [True, False, False]]),
            "overrun": np.array([0.0, 0.25]),
            **unseen(2) | {"gallery": gallery(2, 1)},
        }
        | fields
    )


def latency(**fields):
    blocks = np.linspace(1e-3, 2e-3, 24, dtype=np.float32).reshape(4, 2, 3)
    return Latency(
        **{
            "batch": 1,
            "timing": "host call",
            "order": ("ABBA", "BAAB", "ABBA", "ABBA"),
            "reference": blocks,
            "candidate": blocks / 2,
            "control_a": blocks,
            "control_b": blocks * np.float32(1.01),
            "machine": {"load": np.array([0.5, np.nan, 0.7, 0.8])},
            "facts": {"cpu_model": "none", "threads": None},
        }
        | fields
    )


def without_calls(*shape):
    """Blocks of this shape, as nothing that madx wrote has it."""
    blocks = {name: np.ones(shape) for name in ("reference", "candidate", "control_a", "control_b")}
    return latency().to_arrays() | blocks


def measurements():
    flips = np.array([[True, False], [False, False], [False, True]])
    side = EngineParity(*flips, np.array([0.1, 0.2]), np.array([0.5, 2.0]), ("it leaks", ManyAnswers("ö")))
    return Measurements(
        engine="ort-cpu-fp32",
        accuracy=accuracy(),
        latency=latency(),
        parity=Parity(reference=replace(side, violations=()), candidate=side),
        soundness=sound(30, blind=np.arange(30) < 2),
        sizes=Sizes(reference=2_000_000_000_000, candidate=7),
        curve=curve(),
    )


def curve(**fields):
    standing = np.array([[True, True, True], [True, False, True], [False, False, True]])
    whole = {"attack": "apgd", "eps": np.array([0.0, 0.1, 0.3]), "reference": standing, "candidate": standing[:, ::-1]}
    return Curve(**whole | fields)


def test_measurements_without_a_curve_come_back_without_one():
    given = replace(measurements(), curve=None)
    assert Measurements.from_arrays(given.to_arrays()).curve is None


def test_a_curve_of_the_candidate_alone_comes_back():
    alone = curve(reference=None)
    back = Curve.from_arrays(alone.to_arrays(), compared=False)
    assert back.reference is None
    np.testing.assert_array_equal(back.candidate, alone.candidate)
    with pytest.raises(ArtifactError, match="curve say otherwise"):
        replace(measurements(), curve=alone)


def test_a_file_gives_back_what_was_put_in():
    given, file = measurements(), io.BytesIO()
    np.savez(file, **given.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = Measurements.from_arrays(arrays)
    assert (back.engine, back.sizes) == (given.engine, given.sizes)
    assert back.accuracy.attacks == given.accuracy.attacks
    assert back.latency.facts == given.latency.facts
    assert back.latency.order == given.latency.order
    assert back.parity.reference.violations == ()
    assert back.parity.candidate.violations == ("it leaks", "ö")
    kinds = [isinstance(one, ManyAnswers) for one in back.parity.candidate.violations]
    assert kinds == [False, True], "what forbids a FAIL too must not be forgotten on the way"
    for name, array in given.to_arrays().items():
        assert back.to_arrays()[name].dtype == array.dtype
        np.testing.assert_array_equal(back.to_arrays()[name], array, err_msg=name)


def test_robust_is_correct_clean_and_under_every_attack():
    np.testing.assert_array_equal(accuracy().robust_reference, [False, True, False])
    np.testing.assert_array_equal(accuracy().robust_candidate, [True, False, False])


def test_log_ratios_are_of_the_pairs():
    np.testing.assert_allclose(latency().log_ratios, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(latency().control_log_ratios, -np.log(1.01), rtol=1e-4)


OPTIONAL = {"latency.machine.load", "soundness.doubled.reference", "soundness.doubled.candidate"}
"""What need not have been measured."""


@pytest.mark.parametrize("name", sorted(set(measurements().to_arrays()) - OPTIONAL))
def test_a_missing_array_is_named(name):
    arrays = measurements().to_arrays()
    del arrays[name]
    with pytest.raises(ArtifactError, match=f"no array '{name.split('.')[-1]}'"):
        Measurements.from_arrays(arrays)


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (lambda: accuracy(labels=np.array([1])), ArtifactError, r"\[1\] where \[3\]"),
        (lambda: accuracy(attacks=("pgd",)), ArtifactError, r"\[2, 3\] where \[1, 3\]"),
        (lambda: accuracy(overrun=np.zeros(3)), ArtifactError, r"\[3\] where \[2\]"),
        (lambda: curve(candidate=np.ones((3, 2), dtype=bool)), ArtifactError, r"\[3, 2\] where \[3, 3\]"),
        (lambda: curve(eps=np.array([0.1, 0.2, 0.3])), ArtifactError, "rise from 0"),
        (lambda: curve(eps=np.array([0.0, 0.3, 0.3])), ArtifactError, "rise from 0"),
        (lambda: curve(reference=np.array([[False], [True], [False]]).repeat(3, 1)), ArtifactError, "stands again"),
        (lambda: latency(order=("ABBA",)), ArtifactError, r"\[4, 2, 3\] where \[1, 2, 3\]"),
        (lambda: latency(candidate=np.zeros((4, 2, 3))), ArtifactError, "positive number of seconds"),
        (lambda: latency(candidate=np.full((4, 2, 3), np.nan)), ArtifactError, "positive number of seconds"),
        (
            lambda: EngineParity(np.array([True]), *np.zeros((2, 2), bool), np.zeros(1), np.zeros(1), ()),
            ArtifactError,
            r"\[2\] where \[1\]",
        ),
        (
            lambda: Parity(
                measurements().parity.reference, EngineParity(*np.zeros((3, 1), bool), np.zeros(1), np.zeros(1), ())
            ),
            ArtifactError,
            r"\[1\] where \[2\]",
        ),
        (
            lambda: Latency.from_arrays(latency().to_arrays() | {"rest": np.array("{")}),
            ArtifactError,
            "not JSON",
        ),
        (lambda: Latency.from_arrays(without_calls(4, 2)), ArtifactError, r"shape \[4, 2\].*measure again"),
        (lambda: Latency.from_arrays(without_calls(4, 2, 0)), ArtifactError, "at least one call; measure again"),
        (
            lambda: Latency.from_arrays(latency().to_arrays() | {"machine.moon": np.zeros(4)}),
            ArtifactError,
            "unknown sources",
        ),
        (lambda: latency(machine={"load": np.zeros(3)}), ArtifactError, r"\[3\] where \[4\]"),
        (
            lambda: Latency.from_arrays(latency().to_arrays() | {"rest": np.array("[1]")}),
            ArtifactError,
            "should be batch",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(build, error, said):
    with pytest.raises(error, match=said):
        build()


def test_an_accuracy_of_no_image_is_refused():
    none = np.zeros(0, dtype=bool)
    table = np.zeros((2, 0), dtype=bool)
    with pytest.raises(MadxError, match="on no image"):
        accuracy(
            index=np.zeros(0, dtype=np.int64),
            labels=np.zeros(0, dtype=np.int64),
            clean_reference=none,
            clean_candidate=none,
            attacked=table,
            standing_reference=table,
            standing_candidate=table,
        )
