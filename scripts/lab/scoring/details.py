"""Tables and pictures of an evaluation, for each kind of labels."""

import csv
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score

from lab.scoring.pictures import draw_answers, draw_confusions, draw_precision_recall, draw_reliability
from lab.scoring.report import Details, escaped
from lab.scoring.scores import BINS, calibrate, class_table, confusions

_DEFINITION = (
    f"{BINS} bins of equal width, a confidence c in bin m if (m - 1)/{BINS} < c <= m/{BINS}; mean over samples of the "
    "distance between accuracy and mean confidence of their bin (Guo et al. 2017, https://arxiv.org/abs/1706.04599)"
)


def single_label_details(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, names: list[str], samples: str
) -> Details:
    """A row for each class, the confusion matrix and the calibration of one class each.

    Args:
        labels: `(n,)` int64.
        probabilities: `(n, L)`.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    matrix = confusions(labels, predicted, len(names))
    calibration = calibrate(confidence, predicted == labels)
    with (folder / "confusion_matrix.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *names])
        writer.writerows([name, *row.tolist()] for name, row in zip(names, matrix, strict=True))
    draw_confusions(matrix, names, folder / "confusion_matrix.png")
    draw_reliability(calibration, folder / "reliability.png")
    classes = class_table(labels, predicted, names)
    pictures = "![confusion matrix](confusion_matrix.png) ![reliability](reliability.png)"
    text = f"Calibration error: {_DEFINITION}.\n\n{pictures}"
    bins = [
        {"up_to": (bin + 1) / BINS, "samples": int(count)}
        | ({"confidence": float(confidence), "accuracy": float(accuracy)} if count else {})
        for bin, (count, confidence, accuracy) in enumerate(
            zip(calibration.counts, calibration.confidences, calibration.accuracies, strict=True)
        )
    ]
    content = {"calibration": {"definition": _DEFINITION, "bins": bins}, "classes": classes}
    return Details(f"{text}\n\n{_table(classes, samples)}", content)


def multi_label_details(
    folder: Path, labels: np.ndarray, logits: np.ndarray, names: list[str], samples: str
) -> Details:
    """A row for each class, and curves of precision and recall, of any number of classes each.

    Args:
        labels: `(n, L)` of 0 and 1.
        logits: `(n, L)`.
    """
    classes = []
    for index, name in enumerate(names):
        row = class_table(labels[:, index], logits[:, index] > 0, ["without", name])[1]
        average = float(average_precision_score(labels[:, index], logits[:, index])) if row["samples"] else None
        classes.append({"name": name, "average precision": average, **row})
    draw_precision_recall(labels, logits, names, folder / "precision_recall.png")
    text = "Precision, recall and F1 are of answers above a probability of one half."
    picture = "![precision and recall](precision_recall.png)"
    return Details(f"{text}\n\n{picture}\n\n{_table(classes, samples)}", {"classes": classes})


def regression_details(folder: Path, labels: np.ndarray, answers: np.ndarray, names: list[str]) -> Details:
    """A row for each number, and answers against labels.

    Args:
        labels: `(n, L)`.
        answers: `(n, L)`, in the same units.
    """
    numbers = [
        {
            "name": name,
            "mean_absolute_error": float(mean_absolute_error(labels[:, index], answers[:, index])),
            "root_mean_squared_error": float(np.sqrt(np.square(labels[:, index] - answers[:, index]).mean())),
            "r2": float(r2_score(labels[:, index], answers[:, index])) if len(labels) > 1 else None,
            "deviation_of_labels": float(labels[:, index].std()),
        }
        for index, name in enumerate(names)
    ]
    draw_answers(labels, answers, names, folder / "answers.png")
    lines = [
        "![answers against labels](answers.png)",
        "",
        "| number | mean absolute error | root mean squared error | R² | deviation of the labels |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in numbers:
        cells = ["–" if value is None else f"{value:.4g}" for name, value in row.items() if name != "name"]
        lines.append(f"| {escaped(row['name'])} | {' | '.join(cells)} |")
    return Details("\n".join(lines) + "\n", {"numbers": numbers})


def _table(classes: list[dict], samples: str) -> str:
    scores = [name for name in classes[0] if name not in ("name", "samples")]
    titles = [score.replace("f1", "F1") for score in scores]
    lines = [f"| class | {' | '.join(titles)} | {samples} |", "|---|" + "---:|" * (len(scores) + 1)]
    for row in classes:
        cells = ["–" if row[score] is None else f"{100 * row[score]:.2f} %" for score in scores]
        lines.append(f"| {escaped(row['name'])} | {' | '.join(cells)} | {row['samples']:,} |")
    return "\n".join(lines) + "\n"
