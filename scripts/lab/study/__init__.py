"""The experiments of scripts/study.py, one module each, and what they share.

An experiment has the constants `TITLE`, `CLAIM` and `SOURCE`, and the functions

- `run(setting) -> dict`: measures; everything it returns goes into a JSON file, and the rest works from that alone;
- `draw(result) -> Figure`;
- `tabulate(result) -> str`: Markdown tables;
- `judge(result) -> (verdict, reason)`: one of the verdicts of `lab.study.comparison`, and sentences with the numbers.
"""
