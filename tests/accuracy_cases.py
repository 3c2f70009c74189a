"""Parts of the measurements that most tests do not look at."""

import numpy as np

from madx.verify import Gallery, SideSoundness, Soundness


def unseen(attacks):
    """Attacks of which only the outcomes matter: the rest of an Accuracy's fields."""
    return {
        "kinds": ("white-box",) * attacks,
        "passes": np.zeros((attacks, 2), dtype=np.int64),
        "gallery": gallery(0, 0),
    }


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


def sound(images=200, **side):
    """Attacks that did what they must; `side` replaces fields of the candidate's."""
    none, most = np.zeros(images, dtype=bool), np.arange(images) < 0.7 * images
    whole = {
        "blind": none,
        "misled": none,
        "twin_right": most,
        "engine_right": most,
        "fell_when_doubled": none,
        "unbounded": none,
    }
    return Soundness(
        reference=SideSoundness(**whole),
        candidate=SideSoundness(**whole | side),
        undefended_clean=most,
        undefended=none,
    )
