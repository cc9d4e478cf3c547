"""Seeds of random choices that a resumed run repeats."""

import numpy as np


def fold_seed(*numbers: int) -> int:
    """Return one seed for several numbers of at least 0; other numbers, or more of them, give an unrelated seed."""
    # A sequence of seeds is filled up with zeros, so how many there are has to be one of them.
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0])
