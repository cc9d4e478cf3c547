"""Train a Perceiver image classifier as a recipe says.

    accelerate launch scripts/train.py                                   # handwritten digits, on a CPU in two minutes
    accelerate launch scripts/train.py --config configuration/cifar10-study.yaml data.path=/data/cifar10 seed=1

`output_dir` ends as a complete checkpoint that `from_pretrained` loads: the weights of the best epoch by validation
accuracy, the image processor, the code, and beside them recipe.yaml, metrics.json, metrics.jsonl and curves.png.
`--push_to_hub OWNER/NAME` publishes it, as scripts/publish.py does.
"""

import json
from pathlib import Path

import transformers
from accelerate.utils import set_seed

from lab.augment.images import Normalization
from lab.data.arrays import load_splits, name_classes
from lab.data.streams import load_streams
from lab.errors import run_command
from lab.judging.predictions import evaluate
from lab.machine import finish
from lab.provenance import describe_run
from lab.recipe import image_processor, model_config, parse_command_line
from lab.release.hub import require_repo_id, require_token
from lab.release.staging import publish
from lab.training.checkpoint import set_weights
from lab.training.loop import build_accelerator, train
from lab.training.memory import explain_out_of_memory
from lab.training.run_folder import RESULTS, claim_output, find_start, write_atomically
from modeling_perceiver_study import PerceiverStudyForImageClassification


def main(arguments: list[str] | None = None):
    transformers.utils.logging.disable_progress_bar()  # the one of training is enough
    recipe, options = parse_command_line("Train a Perceiver image classifier.", arguments)
    config = model_config(recipe)
    processor = image_processor(recipe, config)
    accelerator = build_accelerator(recipe)
    output_dir = Path(recipe.output_dir)
    if options.push_to_hub and accelerator.is_main_process:
        require_repo_id(options.push_to_hub)
        require_token()
    start, finished = find_start(output_dir, recipe, options.resume, options.accept_changes, accelerator.print)
    if finished:
        accelerator.print(f"{output_dir} holds the finished run of this recipe; nothing to do")
        if options.push_to_hub and accelerator.is_main_process:
            publish(output_dir, options.push_to_hub, options.private)
        return
    accelerator.wait_for_everyone()  # every process has looked at output_dir before one changes it
    if accelerator.is_main_process:
        claim_output(output_dir, recipe, start)

    with accelerator.main_process_first():  # it fills the caches that the others read
        splits = (load_streams if recipe.data.streaming else load_splits)(recipe.data, config, processor)
    name_classes(config, splits.class_names)
    set_seed(recipe.seed, deterministic=recipe.optimization.deterministic)
    model = PerceiverStudyForImageClassification(config)
    if recipe.optimization.gradient_checkpointing:
        model.activation_checkpointing_enable()
    normalize = Normalization(processor, accelerator.device)

    with explain_out_of_memory(recipe):
        model, test_loader, progress, best_weights = train(accelerator, recipe, model, splits, normalize, start)
        set_weights(accelerator, model, best_weights)
        test_scores = evaluate(accelerator, model, test_loader, normalize) if splits.test else {}  # the only look

    if accelerator.is_main_process:
        best_model = accelerator.unwrap_model(model, keep_torch_compile=False)
        best_model.save_pretrained(output_dir, state_dict=best_weights)
        processor.save_pretrained(output_dir)
        results = {
            "data": recipe.data.called,
            **({"test_images": len(splits.test)} if splits.test else {}),
            **{f"test_{name}": score for name, score in test_scores.items()},
            "validation_accuracy": progress.best_accuracy,
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "steps": progress.step,
            "seed": recipe.seed,
            "parameters": best_model.num_parameters(),
            "train_images": len(splits.train),
            "validation_images": len(splits.validation),
            "train_seconds": round(progress.seconds, 1),
            **describe_run(accelerator),
        }
        write_atomically(output_dir / RESULTS, json.dumps(results, indent=2) + "\n")
        accuracy, images = progress.best_accuracy, f"{len(splits.validation)} validation"
        if splits.test:
            accuracy, images = test_scores["accuracy"], f"{len(splits.test)} test"
        print(
            f"\n{output_dir}: {100 * accuracy:.2f} % of {images} images of {recipe.data.called} right "
            f"(best epoch {progress.best_epoch}, {progress.seconds:.0f} s of training)\n"
            f"  python scripts/predict.py {output_dir} IMAGE...\n"
            f'  AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)'
        )
    finish(accelerator)
    if options.push_to_hub and accelerator.is_main_process:
        publish(output_dir, options.push_to_hub, options.private)


if __name__ == "__main__":
    run_command(main)
