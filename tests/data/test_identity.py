"""What tells data apart from other data."""

import numpy as np

from lab.data.arrays import ArrayDataset
from lab.data.identity import identity
from lab.data.splits import Splits


def test_other_samples_with_the_same_labels_are_other_data():
    def of(values, names="abcd"):
        train, held = ArrayDataset(np.arange(40) % 4, x=np.zeros(40)), ArrayDataset(np.arange(20) % 4, x=values)
        return identity(Splits(train, held, None, list(names)))

    values = np.arange(20.0)
    assert of(values) == of(values.copy())
    assert len({of(values), of(values[::-1].copy()), of(values.astype(np.float32)), of(values, "abce")}) == 4
