"""Seeds of random choices that a resumed run repeats."""

import numpy as np


def fold_seed(*numbers: int) -> int:
    """Return one seed for several numbers of at least 0; different numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
