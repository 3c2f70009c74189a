"""Parts of the measurements that most tests do not look at."""

import numpy as np

from madx.verify import Accuracy, Gallery, SideSoundness, Soundness


def unseen(attacks):
    """Attacks of which only the outcomes matter: the rest of an Accuracy's fields."""
    return {
        "kinds": ("white-box",) * attacks,
        "passes": np.zeros((attacks, 2), dtype=np.int64),
        "gallery": gallery(0, 0),
    }


def compared(reference, candidate, *, labels=None, kinds=("white-box",), overrun=0.0):
    """Images that are right on each engine, clean and under every attack alike; ten classes in turn."""
    n, attacks = len(reference), len(kinds)
    return Accuracy(
        index=np.arange(n),
        labels=np.arange(n) % 10 if labels is None else labels,
        clean_reference=reference,
        clean_candidate=candidate,
        attacks=tuple(f"attack {number}" for number in range(attacks)),
        attacked=np.stack([reference | candidate] * attacks),
        standing_reference=np.stack([reference] * attacks),
        standing_candidate=np.stack([candidate] * attacks),
        overrun=np.full(attacks, overrun),
        **unseen(attacks) | {"kinds": kinds},
    )


def gallery(lost, won, side=4, start=0, channels=1):
    """Random images; the source has them at start, start + 1, ..."""
    images = lost + won
    generator = np.random.default_rng(images)
    return Gallery(
        index=np.arange(start, start + images),
        labels=np.arange(images) % 10,
        taken_for=(np.arange(images) + 3) % 10,
        lost=np.arange(images) < lost,
        clean=generator.random((images, channels, side, side), dtype=np.float32),
        adversarial=generator.random((images, channels, side, side), dtype=np.float32),
    )


def sound(images=200, *, doubled=0, of=300, **side):
    """Attacks that did what they must; `side` replaces fields of the candidate's.

    Twice as long, they turn `doubled` of the first `of` images of the candidate, and none of the reference's.
    """
    none, most = np.zeros(images, dtype=bool), np.arange(images) < 0.7 * images
    whole = {
        "blind": none,
        "misled": none,
        "twin_right": most,
        "engine_right": most,
        "unbounded": none,
    }
    return Soundness(
        reference=SideSoundness(**whole),
        candidate=SideSoundness(**whole | side),
        undefended_clean=most,
        undefended=none,
        doubled_reference=np.zeros(of, dtype=bool),
        doubled_candidate=np.arange(of) < doubled,
        elsewhere_clean=~none,
        elsewhere_robust=~none,
    )
