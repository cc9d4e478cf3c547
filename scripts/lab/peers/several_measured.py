"""Time and memory of cross-attends to video beside sound, up to the size at which a contender no longer fits."""

import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from tqdm.auto import tqdm

from lab.peers.contenders import OURS
from lab.peers.memory import in_own_process, peak_of
from lab.peers.several_inputs import VideoWithSound, agreement, build
from lab.peers.timing import median_ratio, now


def measure_series(
    series: Sequence[VideoWithSound],
    names: Sequence[str],
    device: str,
    rounds: int,
    limit_gigabytes: float,
    timed_frames: int | None = None,
) -> Iterator[tuple[str, dict]]:
    """Yield names and results of cases that grow in number of elements and in nothing else.

    A contender whose training step would need more than the limit, by what it took for the case before and in
    proportion to the number of elements, takes no part; `does_not_fit` says how many gigabytes these are.

    Args:
        timed_frames: of longer clips memory alone is measured; None times all.
    """
    grown: dict[str, float] = {}  # megabytes of a step for each element, by contender
    for case in series:
        result = {"elements": case.elements, "array_megabytes": case.array_megabytes, "agreement": agreement(case)}
        result |= {"forward": {}, "step": {}, "does_not_fit": {}}
        for name in tqdm(names, desc=f"memory of {case.name}", disable=None, leave=False):
            needed = grown.get(name, 0.0) * case.elements / 1024
            if needed <= limit_gigabytes:
                found = in_own_process(_peaks, name, case, device)
                grown[name] = found["step"] / case.elements
                result["forward"][name] = {"megabytes": found["forward"]}
                result["step"][name] = {"megabytes": found["step"]}
                needed = found["step"] / 1024
            if needed > limit_gigabytes:
                result["does_not_fit"][name] = needed
        if timed_frames is None or case.frames <= timed_frames:
            _add_times(result, case, device, rounds)
        yield case.name, result


def forward(model: nn.Module, *inputs: torch.Tensor):
    with torch.no_grad():
        model(*inputs)


def training_step(model: nn.Module, *inputs: torch.Tensor):
    """Run forward and backward; the optimiser is left out, since its time depends on the parameters only."""
    model(*inputs).square().mean().backward()
    for parameter in model.parameters():
        parameter.grad = None


WORK: dict[str, Callable] = {"forward": forward, "step": training_step}


def _peaks(name: str, case: VideoWithSound, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    model, clip = build(name, case).to(device), case.clip(device)
    # First what is allocated only once, on the beginning of the same clip.
    video, sound = clip
    steps, edge = 2 * case.patch[0], 2 * case.patch[1]
    training_step(model, video[:, :steps, :, :edge, :edge], sound[:, : 4 * case.samples_per_patch])
    return {what: peak_of(lambda run=run: run(model, *clip), device) for what, run in WORK.items()}


def _add_times(result: dict, case: VideoWithSound, device: str, rounds: int):
    """Add median milliseconds and ratios to ours of those that fit; they take turns in each round."""
    torch.manual_seed(0)
    names = [name for name in result["step"] if name not in result["does_not_fit"]]
    models, clip = {name: build(name, case).to(device) for name in names}, case.clip(device)
    warm, warm_clip = case.tiny(), case.tiny().clip(device)
    for name in names:
        training_step(build(name, warm).to(device), *warm_clip)
    for what, run in WORK.items():
        times = {name: [] for name in names}
        for _ in tqdm(range(rounds), desc=f"{what} of {case.name}", disable=None, leave=False):
            for name, model in models.items():
                begin = now(device)
                run(model, *clip)
                times[name].append((now(device) - begin) * 1e3)
        for name in names:
            result[what][name]["milliseconds"] = statistics.median(times[name])
            if OURS in names:
                result[what][name]["times_ours"] = median_ratio(times[name], times[OURS])
