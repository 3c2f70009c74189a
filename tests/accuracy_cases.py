"""Parts of an Accuracy that most tests do not look at."""

import numpy as np

from madx.verify import Gallery


def unseen(attacks):
    """Attacks of which only the outcomes matter: the rest of an Accuracy's fields."""
    return {
        "kinds": ("white-box",) * attacks,
        "passes": np.zeros((attacks, 2), dtype=np.int64),
        "gallery": gallery(0, 0),
    }


def gallery(lost, won, side=4, start=0):
    """Random images; the source has them at start, start + 1, ..."""
    images = lost + won
    generator = np.random.default_rng(images)
    return Gallery(
        index=np.arange(start, start + images),
        lost=np.arange(images) < lost,
        clean=generator.random((images, 1, side, side), dtype=np.float32),
        adversarial=generator.random((images, 1, side, side), dtype=np.float32),
    )
