import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from modeling_perceiver_study import PerceiverStudyImageProcessor
from tests.models import small_model


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


def test_trains_under_transformers_trainer(tmp_path):
    """As it is: no callback, no collator, no change of names; the processor's two outputs go in together."""
    processor = PerceiverStudyImageProcessor(size=8, crop_size=8, num_frequency_bands=4)
    model = small_model(image_size=8, num_labels=2, initializer_range=0.05)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=tmp_path,
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
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == 1.0
    assert trainer.predict(Stripes(processor, 21)).predictions.shape == (21, 2)
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        path.name for path in (tmp_path / "checkpoint-40").iterdir()
    }
