"""The files that an evaluation leaves: JSON and Markdown, beside the pictures and tables of its details."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from lab.errors import one_line
from lab.scoring.measures import is_score, measure_of


@dataclass
class Details:
    """What an evaluation says beyond its scores.

    Attributes:
        markdown: text, pictures and tables, which stand in the same folder.
        content: the same as entries of `evaluation.json`.
    """

    markdown: str
    content: dict


def escaped(name: str) -> str:
    """A name in a cell of a table in Markdown."""
    return " ".join(name.replace("|", "\\|").split())


def in_folder(folder: str, markdown: str) -> str:
    """Markdown whose pictures stand in a folder beside it."""
    return re.sub(r"(!\[[^\]]*\]\()", rf"\g<1>{folder}/", markdown)


def write_evaluation(folder: Path, results: dict, samples: str, details: Details, mirrored: dict | None):
    """Write `evaluation.md`, then `evaluation.json`.

    Args:
        results: scores and provenance.
        samples: what they are called, in the plural.
        mirrored: scores of the mean with mirror images, where that was wanted.
    """
    (folder / "evaluation.md").write_text(_markdown(results, samples, details, mirrored), encoding="utf-8")
    content = {**results, **({"flip": mirrored} if mirrored else {}), **details.content}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _markdown(results: dict, samples: str, details: Details, mirrored: dict | None) -> str:
    columns = {"": results} | ({"mean with the mirror image": mirrored} if mirrored else {})
    lines = [
        f"# {results['checkpoint']} on {one_line(results['data'])}, {results['split']}",
        "",
        f"{results['samples']:,} {samples}, {results['dtype']}, {results['hardware']}.",
        "",
        "| |" + "".join(f" {name} |" for name in columns),
        "|---|" + "---:|" * len(columns),
    ]
    for key in filter(is_score, results):
        measure = measure_of(key)
        lines.append(
            f"| {measure.title} |" + "".join(f" {measure.write(column[key])} |" for column in columns.values())
        )
    return "\n".join([*lines, "", details.markdown])
