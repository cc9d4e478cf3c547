"""The experiments of scripts/study.py, one module each, and what they share.

An experiment has the constants `TITLE`, `CLAIM` and `SOURCE`, and the functions

- `settings(setting) -> dict`: what decides the result, and nothing else; an experiment with other settings runs again;
- `run(setting) -> dict`: measure. What it returns goes into a JSON file, and the functions below read that file only;
- `draw(result) -> Figure`;
- `tabulate(result) -> str`: Markdown tables;
- `judge(result) -> list[Finding]`: a verdict on each statement of the claim, computed from the numbers of the result.
"""
