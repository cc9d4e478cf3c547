"""Seeds of several numbers."""

import itertools

from lab.augment.seeds import fold_seed


def test_other_numbers_or_more_of_them_give_another_seed():
    numbers = [case for length in range(1, 5) for case in itertools.product(range(3), repeat=length)]
    assert len({fold_seed(*case) for case in numbers}) == len(numbers)
    assert fold_seed(3, 7) == fold_seed(3, 7)
