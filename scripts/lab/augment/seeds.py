"""Seeds of random choices that a resumed run repeats."""

import numpy as np


def fold_seed(*numbers: int) -> int:
    """One seed from several numbers of at least 0, unrelated for all that differ."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
