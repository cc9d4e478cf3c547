"""Time and memory of Perceiver IO's masked language model here and in transformers, with the same weights."""

import statistics

import torch
from torch import nn
from transformers import PerceiverConfig, PerceiverForMaskedLM

from lab.peers.deepmind_text import our_text_config, their_text_name
from lab.peers.memory import in_own_process, peak_of
from lab.peers.results import where
from lab.peers.timing import median_ratio, now
from modeling_perceiver_study import PerceiverStudyForMaskedLM

OURS, THEIRS = "this repository", "transformers"
CONTENDERS = (OURS, THEIRS)
# deepmind/language-perceiver.
OFFICIAL = {
    "num_latents": 256,
    "d_latents": 1280,
    "d_model": 768,
    "num_blocks": 1,
    "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "qk_channels": 256,
    "v_channels": 1280,
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "max_position_embeddings": 2048,
    "attention_probs_dropout_prob": 0.0,
}
_SHARE = 0.15  # of the bytes that are masked


def build(name: str, fields: dict) -> nn.Module:
    """The model of one, with random weights."""
    torch.manual_seed(0)
    theirs = PerceiverConfig(**fields)
    if name == THEIRS:
        return PerceiverForMaskedLM(theirs)
    return PerceiverStudyForMaskedLM(our_text_config(theirs, "PerceiverForMaskedLM"))


def arguments_of(name: str, fields: dict, length: int) -> dict[str, torch.Tensor]:
    """A text of `length` bytes, of which some are masked; for transformers filled up to all positions, as it needs."""
    torch.manual_seed(1)
    ids = torch.randint(6, 262, (1, length))
    labels = torch.where(torch.rand(ids.shape) < _SHARE, ids, -100)
    labels[0, 0] = ids[0, 0]
    ids = ids.masked_fill(labels >= 0, 3)
    if name == OURS:
        return {"input_ids": ids, "labels": labels}
    room = fields["max_position_embeddings"] - length
    mask = nn.functional.pad(torch.ones_like(ids), (0, room))
    return {
        "inputs": nn.functional.pad(ids, (0, room)),
        "labels": nn.functional.pad(labels, (0, room), value=-100),
        "attention_mask": mask,
    }


def forward(model: nn.Module, given: dict[str, torch.Tensor]):
    with torch.no_grad():
        model.eval()(**{name: value for name, value in given.items() if name != "labels"})


def step(model: nn.Module, given: dict[str, torch.Tensor]):
    """Forward and backward; the optimiser is left out, since its time depends on the parameters only."""
    model.train()(**given).loss.backward()
    for parameter in model.parameters():
        parameter.grad = None


def measure(fields: dict, lengths: list[int], rounds: int) -> dict[str, dict]:
    """By length of the text and contender: milliseconds and megabytes of a forward pass and of a training step."""
    cases = {}
    for length in lengths:
        found = {name: in_own_process(_peaks, name, fields, length) for name in CONTENDERS}
        models = {name: build(name, fields) for name in CONTENDERS}
        _same_weights(models)
        times = {name: {"forward": [], "step": []} for name in CONTENDERS}
        for count in range(rounds + 1):
            for name, model in models.items():
                given = arguments_of(name, fields, length)
                for what, work in (("forward", forward), ("step", step)):
                    begin = now()
                    work(model, given)
                    if count:  # the first is to warm up
                        times[name][what].append(1000 * (now() - begin))
        cases[str(length)] = {
            name: {
                "parameters": sum(weight.numel() for weight in models[name].parameters()),
                **{f"{what}_megabytes": found[name][what] for what in ("forward", "step")},
                **{f"{what}_milliseconds": statistics.median(times[name][what]) for what in ("forward", "step")},
                **{
                    f"{what}_times_ours": median_ratio(times[name][what], times[OURS][what])
                    for what in ("forward", "step")
                },
            }
            for name in CONTENDERS
        }
    return cases


def _same_weights(models: dict[str, nn.Module]):
    weights = models[THEIRS].state_dict()
    ours = models[OURS]
    ours.load_state_dict({name: weights[their_text_name("PerceiverForMaskedLM", name)] for name in ours.state_dict()})


def _peaks(name: str, fields: dict, length: int) -> dict[str, float]:
    model, given = build(name, fields), arguments_of(name, fields, length)
    step(model, given)  # what is made once
    return {
        "forward": peak_of(lambda: forward(model, given), "cpu"),
        "step": peak_of(lambda: step(model, given), "cpu"),
    }


def masked_lm_table(results: dict) -> str:
    """Markdown: a row for each length and contender."""
    lines = [
        f"{where(results)}; float32, one text, medians of {results['rounds']} rounds. Memory is what is needed beyond "
        "the model.",
        "",
        "| bytes | | parameters | forward ms | × ours | MB | step ms | × ours | MB |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for length, contenders in results["lengths"].items():
        for name, found in contenders.items():
            cells = [
                cell
                for what in ("forward", "step")
                for cell in (
                    f"{found[f'{what}_milliseconds']:,.0f}",
                    f"{found[f'{what}_times_ours']:.2f}",
                    f"{found[f'{what}_megabytes']:,.0f}",
                )
            ]
            lines.append(f"| {int(length):,} | {name} | {found['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
