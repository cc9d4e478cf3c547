"""The same byte arrays given to a recipe's model and to Perceivers of the same size by others."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PerceiverConfig
from transformers.models.perceiver import modeling_perceiver as theirs

from lab.peers.contenders import perceiver_pytorch, widen_mlps
from lab.peers.timing import median_ratio, now
from lab.tasks.task import Task
from modeling_perceiver_study import PerceiverStudyConfig

OURS, ONE_CROSS_ATTEND = "this repository", "this repository, one cross-attend and one block's weights"
ARRAY = "what makes the array that the others are given"


class Transformers(nn.Module):
    """transformers' `PerceiverModel` with its classification decoder; it has one cross-attend, and one shared block."""

    def __init__(self, config: PerceiverStudyConfig, width: int):
        super().__init__()
        shape = PerceiverConfig(
            d_model=width,
            num_latents=config.num_latents,
            d_latents=config.d_latents,
            num_blocks=config.num_blocks,
            num_self_attends_per_block=config.num_self_attends_per_block,
            num_self_attention_heads=config.num_self_attention_heads,
            num_cross_attention_heads=config.num_cross_attention_heads,
            qk_channels=config.cross_attend_widths[0],
            v_channels=config.cross_attend_widths[1],
            self_attention_widening_factor=config.self_attention_widening_factor,
            cross_attention_widening_factor=config.cross_attention_widening_factor,
            attention_probs_dropout_prob=0.0,
            num_labels=config.num_labels,
        )
        decoder = theirs.PerceiverClassificationDecoder(
            shape,
            num_channels=config.d_latents,
            trainable_position_encoding_kwargs={"num_channels": config.d_latents, "index_dims": 1},
            use_query_residual=True,
        )
        self.model = theirs.PerceiverModel(shape, decoder=decoder)

    def forward(self, array: torch.Tensor) -> torch.Tensor:
        return self.model(array).logits


class PerceiverPytorch(nn.Module):
    """perceiver-pytorch without positions of its own; as many cross-attends as blocks."""

    def __init__(self, config: PerceiverStudyConfig, width: int):
        super().__init__()
        model = perceiver_pytorch().Perceiver(
            num_freq_bands=1,
            max_freq=2.0,
            fourier_encode_data=False,
            input_channels=width,
            input_axis=1,
            depth=config.num_blocks,
            num_latents=config.num_latents,
            latent_dim=config.d_latents,
            cross_heads=config.num_cross_attention_heads,
            cross_dim_head=config.cross_attend_widths[0] // config.num_cross_attention_heads,
            latent_heads=config.num_self_attention_heads,
            latent_dim_head=config.d_latents // config.num_self_attention_heads,
            num_classes=config.num_labels,
            weight_tie_layers=config.share_block_weights,
            self_per_cross_attn=config.num_self_attends_per_block,
        )
        factors = config.cross_attention_widening_factor, config.self_attention_widening_factor
        self.model = widen_mlps(model, *factors)

    def forward(self, array: torch.Tensor) -> torch.Tensor:
        return self.model(array)


OTHERS = {"transformers": Transformers, "perceiver-pytorch": PerceiverPytorch}


def measure(
    task: Task, batch: int, rounds: int, others: Sequence[str] = tuple(OTHERS), device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """`elements`, `width`, and for each of the `contenders` milliseconds of a forward pass and of a training step.

    Milliseconds are those of one sample of a batch, medians over the rounds, in each of which the contenders take
    turns. Ours start from what the task gives them; the others are given the finished array of elements and positions,
    and what it takes to make that, with a stem if there is one, is timed by itself. `ratio` is the median, over rounds,
    of the time of a training step as a multiple of ours.
    """
    torch.manual_seed(0)
    arguments, _ = task.example(batch, device)
    arguments = {
        name: torch.randn_like(value) if value.is_floating_point() else value for name, value in arguments.items()
    }
    # In evaluation mode, or latents, modalities and attention weights that a recipe leaves out would be left out here.
    ours = task.new_model().to(device).eval()
    with torch.no_grad():
        array = ours.perceiver.elements(**arguments)
    runs: dict[str, tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]] = {
        OURS: (ours, lambda model: model(**arguments).logits)
    }
    if task.config.num_cross_attends > 1:
        config = type(task.config)(**task.config.to_dict() | {"num_cross_attends": 1, "share_block_weights": True})
        runs[ONE_CROSS_ATTEND] = (task.model_class(config).to(device).eval(), lambda model: model(**arguments).logits)
    for name in others:
        runs[name] = (OTHERS[name](task.config, array.shape[-1]).to(device), lambda model: model(array))
    runs[ARRAY] = (ours.perceiver.inputs, lambda model: ours.perceiver.elements(**arguments))
    times = {name: {"forward": [], "step": []} for name in runs}
    for count in tqdm(range(rounds + 1), desc="rounds", disable=None, leave=False):
        for name, (model, run) in runs.items():
            begin = now(device)
            with torch.no_grad():
                run(model)
            middle = now(device)
            made = run(model)
            if made.requires_grad:
                made.square().mean().backward()
            end = now(device)
            if count:  # the first is to warm up
                times[name]["forward"].append(1000 * (middle - begin) / batch)
                times[name]["step"].append(1000 * (end - middle) / batch)
    contenders = {
        name: {
            "parameters": sum(parameter.numel() for parameter in runs[name][0].parameters()),
            "forward": statistics.median(found["forward"]),
            "step": statistics.median(found["step"]),
            "ratio": median_ratio(found["step"], times[OURS]["step"]),
        }
        for name, found in times.items()
    }
    return {"elements": array.shape[1], "width": array.shape[2], "contenders": contenders}


def cost_table(found: dict[str, Any]) -> str:
    """What `measure` found, with what the command adds, in Markdown."""
    lines = [
        "| | parameters | forward, ms a sample | training step, ms a sample | times the first line |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in found["contenders"].items():
        cells = f"{one['parameters']:,} | {one['forward']:.2f} | {one['step']:.2f} | {one['ratio']:.2f}"
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        f"{found['elements']:,} elements of {found['width']} channels, batches of {found['batch_size']}, medians of "
        f"{found['rounds']} rounds, float32; {found['hardware']}; commit {found['git_commit']}.",
    ]
    return "\n".join(lines) + "\n"
