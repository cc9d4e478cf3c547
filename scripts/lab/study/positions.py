"""Position encodings: their kind, the number of Fourier bands, and the highest frequency."""

from matplotlib.figure import Figure

from lab.study.comparison import Finding, accuracy_table, gather, is_larger
from lab.study.pictures import ACCURACY, draw_accuracies, new_figure
from lab.study.setting import Setting
from lab.study.training import Job, run_all
from lab.tasks import build_task

TITLE = "Position encodings"
CLAIM = (
    "Attention alone does not know where a pixel is, so positions have to come with the inputs; Fourier features do "
    "better than learned positions (ImageNet: 78.0 against 70.9 %); a higher number of bands and a higher maximum "
    "frequency, up to Nyquist, improve accuracy."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 3.2, table 2, appendix B and figure 6"

KINDS = ("none", "learned", "fourier")
BANDS = (0.25, 0.5, 1, 2)  # of the Nyquist frequency: at 1 they are a cycle apart
FREQUENCIES = (0.25, 0.5, 1, 2)  # of the Nyquist frequency


def settings(setting: Setting) -> dict:
    return setting.for_training(*_common(_nyquist(setting)))


def _nyquist(setting: Setting) -> float:
    """Return the Nyquist frequency of the longest axis, in cycles an image."""
    return max(build_task(setting.recipe()).config.attended_grid) / 2


def _common(nyquist: float) -> tuple[str, ...]:
    """Return the overrides for all runs: Fourier features up to the Nyquist frequency, a cycle apart."""
    return (
        f"model.num_frequency_bands={round(nyquist)}",
        "model.position_encoding_type=fourier",
        "model.max_frequencies=null",
    )


def run(setting: Setting) -> dict:
    nyquist = _nyquist(setting)
    variants = {
        "kind": {kind: [f"model.position_encoding_type={kind}"] for kind in KINDS},
        "bands": {count: [f"model.num_frequency_bands={count}"] for count in _counts(nyquist)},
        "frequency": {
            # null and not the number, so that this run is the recipe's own
            f"{factor:g} × Nyquist": [f"model.max_frequencies={'null' if factor == 1 else factor * nyquist}"]
            for factor in FREQUENCIES
        },
    }
    jobs = [
        Job({"varied": varied, "value": value, "seed": seed}, setting.recipe(*_common(nyquist), *overrides, seed=seed))
        for varied, values in variants.items()
        for value, overrides in values.items()
        for seed in setting.seeds
    ]
    channels = build_task(setting.recipe()).config.num_attended_channels
    return {"nyquist": nyquist, "bands": round(nyquist), "channels": channels, "runs": run_all(jobs, setting, TITLE)}


def _counts(nyquist: float) -> list[int]:
    return sorted({max(1, round(factor * nyquist)) for factor in BANDS})


def _of(result: dict, varied: str) -> list[dict]:
    return [run for run in result["runs"] if run["varied"] == varied]


def draw(result: dict) -> Figure:
    figure, panels = new_figure(3)
    for panel, (varied, label) in zip(panels, _labels(result).items(), strict=True):
        groups = gather(_of(result, varied), "value", "validation_accuracy")
        draw_accuracies(panel, groups, line=varied != "kind")
        panel.set_xlabel(label)
    panels[0].set_ylabel(ACCURACY)
    panels[2].set_xticks(range(len(FREQUENCIES)), [f"{factor:g}" for factor in FREQUENCIES])
    return figure


def _labels(result: dict) -> dict[str, str]:
    nyquist = f"Nyquist ({result['nyquist']:g})"
    return {
        "kind": "position encoding",
        "bands": f"Fourier bands up to {nyquist}",
        "frequency": f"highest of {result['bands']} bands, in units of {nyquist}",
    }


def tabulate(result: dict) -> str:
    labels = _labels(result).items()
    tables = "\n".join(accuracy_table(_of(result, varied), "value", label) for varied, label in labels)
    if result["channels"] > 1:
        return tables
    return (
        f"{tables}\nA cross-attend begins with a LayerNorm over channels, which makes all pixels of a single channel "
        "equal if they have no positions. So the model without positions sees nothing here, not even a set of pixels.\n"
    )


def judge(result: dict) -> list[Finding]:
    kinds, bands, frequencies = (
        gather(_of(result, varied), "value", "validation_accuracy") for varied in ("kind", "bands", "frequency")
    )
    fewest, most = min(bands), max(bands)
    below, _, at, above = frequencies
    return [
        is_larger("learned positions over none", kinds["learned"], kinds["none"]),
        is_larger("Fourier features over learned positions", kinds["fourier"], kinds["learned"]),
        is_larger(f"{most} bands over {fewest}", bands[most], bands[fewest]),
        is_larger(f"Nyquist over {below}", frequencies[at], frequencies[below]),
        is_larger(f"Nyquist over {above}", frequencies[at], frequencies[above]),
    ]
