"""The notebook docs/study/tour.ipynb."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.paths import ROOT

pytestmark = pytest.mark.slow

PATH = ROOT / "docs" / "study" / "tour.ipynb"
STRICT = "import warnings\nwarnings.simplefilter('error')"


def texts(notebook) -> str:
    """All that its cells print."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(notebook) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def differences(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"largest difference from .*: (\S+)", text)]


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def executed():
    """Run anew, from its own folder, with warnings as errors in its kernel."""
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(PATH.parent)}}
    )
    client.execute()
    return notebook


def test_it_runs_and_says_what_is_true(executed):
    text = texts(executed)
    assert len(differences(text)) == 2 and max(differences(text)) < 1e-4
    accuracy = float(re.search(r"([\d.]+) % of 437 validation images are right", text)[1])
    assert accuracy > 80


def test_what_is_committed_was_executed_and_is_small(committed, executed):
    nbformat.validate(committed)
    assert PATH.stat().st_size < 300_000
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom: jupyter execute --inplace"
    assert pictures(committed) == pictures(executed) >= 8
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr"
        for cell in committed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    untimed = [re.sub(r"\d[\d.e+-]*", "#", text) for text in (texts(committed), texts(executed))]
    assert untimed[0] == untimed[1], "it prints other things now"
