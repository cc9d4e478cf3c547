import json

import pytest
from PIL import Image

from lab.training.curves import draw_curves, read_metrics


def test_a_picture_of_the_log(tmp_path):
    lines = [{"kind": "step", "step": step, "epoch": step / 10, "loss": 1 / step} for step in range(5, 25, 5)]
    lines += [{"kind": "epoch", "step": 10, "epoch": 1, "validation_loss": 0.5, "validation_accuracy": 0.25}]
    lines += [{"kind": "epoch", "step": 20, "epoch": 2, "validation_loss": 0.4, "validation_accuracy": 0.75}]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps, epochs = read_metrics(log)
    assert [line["step"] for line in steps] == [5, 10, 15, 20]
    assert [line["step"] for line in epochs] == [10, 20]
    draw_curves(log, tmp_path / "curves.png", title="run", best="accuracy")
    with Image.open(tmp_path / "curves.png") as image:
        image = image.convert("RGB")
    assert image.size == (1500, 600)
    colours = {colour for _, colour in image.getcolors(maxcolors=10**6)}
    assert (0, 0x72, 0xB2) in colours and (0xD5, 0x5E, 0) in colours


def test_a_log_without_epochs_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", title="run", best="accuracy")
