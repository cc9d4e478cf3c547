"""Programs and phrases for model cards."""

from transformers import PreTrainedConfig

from lab.tasks.targets import Target


def elements_of(config: PreTrainedConfig, single: str, samples: str) -> str:
    """What latents look at, for a card: `single` without patches and stem, otherwise made of `samples`."""
    if config.stem_type == "conv":
        return f"{samples} through a convolutional stem"
    return f"patches of {samples}" if config.patch_size else single


def with_pipeline(task: str, file: str, target: Target, settings: str = "") -> str:
    """A program that classifies a file with transformers' pipeline, with `{repo_id}` for the name of the model.

    Args:
        settings: more arguments of the pipeline, with a comma before them.
    """
    lines = [
        "from transformers import pipeline",
        "",
        f'classify = pipeline("{task}", model="{{repo_id}}", trust_remote_code=True{settings})',
    ]
    answer = f'classify("{file}", top_k={target.shown_answers})'
    if not target.parts_tasks:
        return "\n".join([*lines, f"print({answer})"])
    lines += [
        "model = classify.model",
        "for task in model.config.tasks:",
        "    classify.model = model.for_task(task)",
        f"    print(task, {answer})",
    ]
    return "\n".join(lines)


def with_parts(processor: str, model: str, sample: str, target: Target, imports: str = "") -> str:
    """The same with the processor and the model in hand.

    Args:
        processor: the Auto class that loads it.
        model: likewise.
        sample: Python for what the processor takes.
        imports: a line for what `sample` needs.
    """
    return f"""import torch
{imports}from transformers import {processor}, {model}

processor = {processor}.from_pretrained("{{repo_id}}", trust_remote_code=True)
model = {model}.from_pretrained("{{repo_id}}", trust_remote_code=True)
with torch.no_grad():
    logits = model(**processor({sample}, return_tensors="pt")).logits
print({target.answer_in_code})"""
