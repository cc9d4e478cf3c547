"""One class for each problem type, by the name that transformers' `config.problem_type` has for it.

And one for models with `config.tasks`, whose `problem_type` is None.
"""

from lab.tasks.targets.multi_label import MultiLabel
from lab.tasks.targets.regression import Regression
from lab.tasks.targets.several_tasks import SeveralTasks
from lab.tasks.targets.single_label import SingleLabel
from lab.tasks.targets.target import Target

TARGETS: dict[str, type[Target]] = {
    "single_label_classification": SingleLabel,
    "multi_label_classification": MultiLabel,
    "regression": Regression,
    "several_tasks": SeveralTasks,
}
