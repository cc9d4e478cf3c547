import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from tests.models import small_model

pytestmark = pytest.mark.slow


class Stripes(Dataset):
    """Vertical or horizontal stripes: a task that a few steps solve."""

    def __init__(self, processor: PerceiverStudyImageProcessor, size: int = 64):
        self.processor, self.size = processor, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        stripes = 255 * (torch.arange(8) // 2 % 2).to(torch.uint8)
        image = stripes.expand(3, 8, 8) if index % 2 else stripes.expand(3, 8, 8).mT
        inputs = self.processor(image, return_tensors="pt")
        return {**{name: value[0] for name, value in inputs.items()}, "labels": index % 2}


def train(model, processor, folder):
    """A `Trainer` as it is: no callback, no collator, no change of names; both outputs of the processor go in."""
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=40,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            report_to=[],
            save_strategy="steps",
            save_steps=40,
            logging_steps=10,
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            dataloader_pin_memory=False,
        ),
        train_dataset=Stripes(processor),
        eval_dataset=Stripes(processor, 21),
        processing_class=processor,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    return trainer


def test_trains_under_transformers_trainer(tmp_path):
    processor = PerceiverStudyImageProcessor(size=8, crop_size=8, num_frequency_bands=4)
    trainer = train(small_model(image_size=8, num_labels=2, initializer_range=0.05), processor, tmp_path)
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == 1.0
    assert trainer.predict(Stripes(processor, 21)).predictions.shape == (21, 2)
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        path.name for path in (tmp_path / "checkpoint-40").iterdir()
    }


def test_fine_tunes_under_transformers_trainer(tmp_path):
    """A bfloat16 checkpoint with other labels and another image size: a new head, and the rest comes along."""
    old = small_model(image_size=6, num_labels=5, initializer_range=0.05, max_frequencies=4)
    old.to(torch.bfloat16).save_pretrained(tmp_path / "old")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is made anew is a warning
    model, report = PerceiverStudyForImageClassification.from_pretrained(
        tmp_path / "old",
        num_labels=2,
        image_size=8,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    logging.set_verbosity(verbosity)
    assert {name for name, *_ in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for (name, weight), expected in zip(model.perceiver.named_parameters(), old.perceiver.parameters(), strict=True):
        assert torch.equal(weight, expected.float()), name
    processor = PerceiverStudyImageProcessor(size=8, crop_size=8, num_frequency_bands=4, max_frequencies=4)
    trainer = train(model, processor, tmp_path / "new")
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    again = PerceiverStudyForImageClassification.from_pretrained(tmp_path / "new" / "checkpoint-40")
    assert again.config.num_labels == 2 and again.dtype == torch.float32
