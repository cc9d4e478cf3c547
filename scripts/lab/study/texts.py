"""How well classifiers of texts do when texts are mistyped, disguised, or in one case."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC
from transformers import PreTrainedModel

from lab.data.matching import used_labels
from lab.data.splits import choose_split
from lab.data.text import TEXT, TextDataset
from lab.errors import UserError
from lab.looking.style import COLOURS, MARKERS, tidy
from lab.study.robustness import Curve
from lab.tasks.labelled import match_labels
from lab.tasks.task import concatenate
from lab.tasks.text_classification import TextClassification

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
# Latin letters, and letters of Cyrillic and Greek that look the same.
_LOOK_ALIKES = dict(zip("aceiopxyABEHIKMNOPTXYZ", "асеіорхуАВЕНІКМΝОРТХΥΖ", strict=True))
Classify = Callable[[Sequence[str]], np.ndarray]


def mistyped(text: str, share: float, rng: np.random.Generator) -> str:
    """Of a share of the characters each left out, doubled, swapped with the next, or replaced by one of the text."""
    characters, typed, place = list(text), [], 0
    while place < len(characters):
        here, place = characters[place], place + 1
        if rng.random() >= share:
            typed.append(here)
            continue
        kind = rng.integers(4)
        if kind == 1:
            typed += [here, here]
        elif kind == 2 and place < len(characters):
            typed += [characters[place], here]
            place += 1
        elif kind == 3:
            typed.append(characters[rng.integers(len(characters))])
    return "".join(typed) or text


def disguised(text: str, share: float, rng: np.random.Generator) -> str:
    """A share of those Latin letters that have look-alikes in other scripts replaced by them."""
    return "".join(
        _LOOK_ALIKES[letter] if letter in _LOOK_ALIKES and rng.random() < share else letter for letter in text
    )


def curves_of(classify: Classify, texts: Sequence[str], labels: np.ndarray) -> list[Curve]:
    """Accuracy by the share of characters that are mistyped, and of letters that are disguised."""
    curves = []
    for name, change in (("typing errors", mistyped), ("look-alikes", disguised)):
        found = []
        for share in SHARES:
            rng = np.random.default_rng(0)
            found.append(_accuracy(classify, [change(text, share, rng) for text in texts], labels))
        curves.append(Curve(name, list(SHARES), found))
    return curves


def cases_of(classify: Classify, texts: Sequence[str], labels: np.ndarray) -> dict[str, float]:
    """Accuracy on texts as they are, in upper case and in lower case."""
    return {
        "as they are": _accuracy(classify, texts, labels),
        "upper case": _accuracy(classify, [text.upper() for text in texts], labels),
        "lower case": _accuracy(classify, [text.lower() for text in texts], labels),
    }


def _accuracy(classify: Classify, texts: Sequence[str], labels: np.ndarray) -> float:
    return float((classify(texts) == labels).mean())


def ngram_classifier(texts: Sequence[str], labels: np.ndarray, longest: int = 3) -> Pipeline:
    """A linear support vector machine on tf-idf of the n-grams of characters.

    Raises:
        UserError: all texts are of one class, between which nothing is to be learned.
    """
    if len(used_labels(labels)) < 2:
        raise UserError("the texts to train on are all of one class: the n-grams to compare with need two or more")
    features = TfidfVectorizer(analyzer="char", ngram_range=(1, longest), sublinear_tf=True)
    return make_pipeline(features, LinearSVC()).fit(list(texts), labels)


def classifier_of(task: TextClassification, model: PreTrainedModel, batch_size: int) -> Classify:
    """The model as a function of texts."""
    decoder = task.decoder()

    @torch.no_grad()
    def classify(texts: Sequence[str]) -> np.ndarray:
        samples = [decoder.decode_one(text) for text in texts]
        dataset = TextDataset(samples, np.zeros(len(samples), np.int64))
        order, parts = np.argsort(dataset.lengths, kind="stable"), []
        for first in range(0, len(order), batch_size):
            arguments, targets = task.inputs(dataset.__getitems__(order[first : first + batch_size].tolist()))
            parts.append(task.judge([model(**arguments)], targets))
        judged, answers = concatenate(parts), np.empty(len(order), np.int64)
        task.require_numbers(judged)
        answers[order] = judged["logits"].argmax(axis=1)
        return answers

    return classify


def texts_of(task: TextClassification, split: str) -> tuple[list[str], np.ndarray]:
    """Texts of a split as they are, and their labels as the model numbers them.

    Raises:
        UserError: one is not usable, unless the recipe says to skip such; or the model does not know its class.
    """
    rows, decoder = choose_split(task.reading, split), task.decoder()
    names = rows.source.label_names
    used = [names[label] for label in used_labels(rows.source.labels)]
    numbers = match_labels(names, task.label_names, by_number=False, used=used)
    broken = decoder.decode_all(rows.source, rows.rows, lambda place, sample: None)
    usable = rows.rows[~broken]
    return rows.source.read(usable)[TEXT.role], numbers[rows.source.labels[usable]]


def draw_texts(curves: dict[str, list[Curve]]) -> Figure:
    """A panel for each kind of change, a line for each classifier."""
    kinds = [curve.name for curve in next(iter(curves.values()))]
    figure = Figure(figsize=(4.5 * len(kinds), 3.4), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True)
    lowest = min(accuracy for found in curves.values() for curve in found for accuracy in curve.accuracies)
    bottom = max(0, 10 * math.floor(10 * lowest - 0.3))  # whole tens, with room below the lowest point
    for number, (axes, kind) in enumerate(zip(panels, kinds, strict=True)):
        for (name, found), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
            curve = found[number]
            axes.plot(
                100 * np.array(curve.places), 100 * np.array(curve.accuracies), color=colour, marker=marker, label=name
            )
        axes.set(xlabel=f"% {kind}", ylim=(bottom, 100))
    panels[0].set(ylabel="accuracy in %")
    panels[0].legend(frameon=False)
    tidy(*panels)
    return figure


def texts_table(curves: dict[str, list[Curve]], cases: dict[str, dict[str, float]], split: str = "test") -> str:
    """Markdown: a row for each change, a column for each classifier."""
    names = list(curves)
    lines = [f"| {split} lines | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for case in cases[names[0]]:
        lines.append(_row(case, [cases[name][case] for name in names]))
    for number, first in enumerate(curves[names[0]]):
        for place, share in enumerate(first.places):
            if share:
                what = "of the characters mistyped" if first.name == "typing errors" else "of the letters disguised"
                row = [curves[name][number].accuracies[place] for name in names]
                lines.append(_row(f"{100 * share:g} % {what}", row))
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{100 * value:.1f} %' for value in values)} |"
