"""Memory of decoding many output queries, in chunks and all at once."""

import torch
from torch import nn
from tqdm.auto import tqdm

from lab.peers.memory import in_own_process, peak_of
from lab.peers.timing import now
from modeling_perceiver_study import PerceiverStudyConfig
from modeling_perceiver_study.decoder import FourierQueries, PerceiverStudyDecoder

CHUNKS, AT_ONCE = "in chunks", "at once"
NUM_LATENTS, D_LATENTS, BANDS, COLOURS = 128, 256, 64, 3


def measure_decoding(edges: list[int], device: str, limit_gigabytes: float) -> dict[str, dict]:
    """Measure megabytes and seconds of decoding an image of `edge²` pixels, forward and for a training step.

    Where all queries at once would need more than the limit, by what fewer took, `does_not_fit` says how many
    gigabytes.
    """
    grown, results = {}, {}
    for edge in tqdm(edges, desc="output queries"):
        queries = edge * edge
        results[str(queries)] = {}
        for way in (CHUNKS, AT_ONCE):
            needed = grown.get(way, 0.0) * queries / 1024
            if way == AT_ONCE and needed > limit_gigabytes:
                results[str(queries)][way] = {"does_not_fit": needed}
                continue
            results[str(queries)][way] = in_own_process(_decode, edge, way, device)
            grown[way] = results[str(queries)][way]["step_megabytes"] / queries
    return results


def _decode(edge: int, way: str, device: str) -> dict[str, float]:
    """Megabytes beyond the model and what it returns, and seconds, of one forward pass and one training step."""
    torch.manual_seed(0)
    config = PerceiverStudyConfig(num_latents=NUM_LATENTS, d_latents=D_LATENTS)
    decoder = PerceiverStudyDecoder(config, FourierQueries([edge, edge], BANDS), use_query_residual=False).to(device)
    head = nn.Linear(decoder.width, COLOURS).to(device)
    latents = torch.randn(1, NUM_LATENTS, D_LATENTS, device=device, requires_grad=True)
    size = {} if way == CHUNKS else {"chunk_size": edge * edge}

    def answers(indices: torch.Tensor | None = None) -> torch.Tensor:
        return decoder(latents, output_query_indices=indices, head=head, **size)

    def forward():
        with torch.no_grad():
            answers()

    def step():
        answers().square().mean().backward()

    answers(torch.arange(8, device=device)).square().mean().backward()  # what is allocated only once
    result = {}
    for what, run in (("forward", forward), ("step", step)):
        begin = now(device)
        result[f"{what}_megabytes"] = peak_of(run, device)
        result[f"{what}_seconds"] = now(device) - begin
    return result
