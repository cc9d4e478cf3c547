"""Verdicts are computed: results that contradict a statement of a claim turn the verdict on it, one by one."""

import pytest

import study
from lab.study import (
    attention_maps,
    complexity,
    content_position,
    cross_attends,
    elastic,
    latents_depth,
    permutation,
    query_tuning,
    weight_sharing,
)
from lab.study.comparison import FAILS, HOLDS, IN_PART, OPEN, conclude

SEEDS = 3
# Results of each experiment: `(names of a run, what is measured in it)`; `against` is the statement to contradict.


def runs(*groups: tuple[dict, dict], seeds: int) -> dict:
    """Runs with several seeds, which differ by a thousandth in every number but counts."""

    def vary(value, seed):
        if isinstance(value, list):
            return [vary(inner, seed) for inner in value]
        if isinstance(value, dict):
            return {name: vary(inner, seed) for name, inner in value.items()}
        return value + 0.001 * seed if isinstance(value, float) else value

    return {
        "runs": [{**names, "seed": seed, **vary(measured, seed)} for names, measured in groups for seed in range(seeds)]
    }


def of_attention_maps(against, seeds):
    first = {"image": 0.1 if against == 0 else 0.5, "plaid": 0.6 if against == 1 else 0.2}
    first["high"] = 0.6 if against == 2 else 0.2
    last = {"image": 0.3, "plaid": 0.5, "high": 0.5}
    learned = {**last, "plaid": 0.9 if against == 3 else 0.1}
    return runs(
        ({"positions": attention_maps.FOURIER}, {"cross_attends": [first, last]}),
        ({"positions": attention_maps.LEARNED}, {"cross_attends": [learned, learned]}),
        seeds=seeds,
    )


def of_complexity(against, seeds):
    series = []
    for place, one in enumerate(one for one in complexity.all_series() if one.name in ("cross-attend", "self-attends")):
        exponents = [one.exponent + 1 if against == 2 * place + offset else one.exponent for offset in (0, 1)]
        series.append(growth(one.name, one.variable, one.exponent, *exponents))
    series.append(growth("whole Perceiver", "M", 1, 0.8, 0.8))
    series.append(growth("transformer on pixels", "M", 2, 0.5 if against == 10 else 1.9, 1.0))
    return {"series": series}


def growth(name, variable, claimed, seconds, megabytes):
    points = [{"value": v, "seconds": float(v) ** seconds, "megabytes": float(v) ** megabytes} for v in (8, 16, 32, 64)]
    return {"name": name, "variable": variable, "exponent": claimed, "points": points}


def of_weight_sharing(against, seeds):
    gaps = (0.1, 0.02) if against == 1 else (0.02, 0.1)
    accuracies = (0.8, 0.9) if against == 2 else (0.9, 0.8)
    parameters = (100, 150) if against == 0 else (100, 1000)
    return runs(
        *(
            (
                {"weights": weights},
                {"parameters": count, "validation_accuracy": accuracy, "train_accuracy": accuracy + gap},
            )
            for weights, count, accuracy, gap in zip(
                (weight_sharing.SHARED, weight_sharing.UNSHARED), parameters, accuracies, gaps, strict=True
            )
        ),
        seeds=seeds,
    )


def of_cross_attends(against, seeds):
    accuracies, seconds = [0.8, 0.85, 0.86, 0.87], [1.0, 2.0, 3.0, 4.0]
    if against in (0, 1, 2):
        accuracies[against + 1] = 0.75
    if against in (3, 4, 5):
        seconds[against - 2] -= 1.5
    return runs(
        *(
            ({"cross_attends": count}, {"validation_accuracy": accuracy, "seconds": second})
            for count, accuracy, second in zip(cross_attends.COUNTS, accuracies, seconds, strict=True)
        ),
        seeds=seeds,
    )


def of_positions(against, seeds):
    values = {
        "kind": {"none": 0.2, "learned": {0: 0.1, 1: 0.9}.get(against, 0.5), "fourier": 0.8},
        "bands": {1: 0.6, 2: 0.7, 8: 0.5 if against == 2 else 0.8},
        "frequency": {
            "0.25": 0.9 if against == 3 else 0.6,
            "0.5": 0.7,
            "1": 0.8,
            "2": 0.9 if against == 4 else 0.7,
        },
    }
    return runs(
        *(
            ({"varied": varied, "value": value}, {"validation_accuracy": accuracy})
            for varied, groups in values.items()
            for value, accuracy in groups.items()
        ),
        seeds=seeds,
    )


def of_permutation(against, seeds):
    exact = {
        "validation_accuracy": 0.9,
        "permuted_accuracy": 0.8 if against == 0 else 0.9,
        "largest_logit": 8.0,
        "largest_difference": 1.0 if against == 1 else 0.0,
    }
    groups = [
        (permutation.FOURIER, permutation.RAW, exact),
        (permutation.FOURIER, permutation.ALONE, {"validation_accuracy": 0.8}),
        (permutation.LEARNED, permutation.RAW, {"validation_accuracy": 0.8}),
        (permutation.LEARNED, permutation.ALONE, {"validation_accuracy": 0.8}),
        (permutation.CONVOLUTIONAL, permutation.RAW, {"validation_accuracy": 0.9}),
        (permutation.CONVOLUTIONAL, permutation.WITH_POSITIONS, {"validation_accuracy": 0.95 if against == 2 else 0.8}),
    ]
    return runs(*(({"model": model, "pixels": pixels}, found) for model, pixels, found in groups), seeds=seeds)


def of_latents_depth(against, seeds):
    groups = []
    for place, key in enumerate(latents_depth.VARIED):
        accuracies = {1: 0.65 if against == 2 * place else 0.5, 2: 0.6, 4: 0.55 if against == 2 * place + 1 else 0.7}
        groups += [({"varied": key, "value": v}, {"validation_accuracy": a}) for v, a in accuracies.items()]
    return {"usual": dict.fromkeys(latents_depth.VARIED, 2), **runs(*groups, seeds=seeds)}


def of_content_position(against, seeds):
    content = {0: 0.05, 1: 0.95}.get(against, 0.4)
    kinds = {2: (0.05, 0.6), 3: (0.6, 0.05), 4: (0.2, 0.2)}.get(against, (0.4, 0.4))
    history = [{"shares": [[content, 1 - content, 0.0]] * 2}]
    looked_into = {"history": history, "kinds": [dict(zip(content_position.PARTS, kinds, strict=False))] * 2}
    return runs(
        ({"keys": content_position.BOTH}, {"validation_accuracy": 0.8, **looked_into}),
        ({"keys": content_position.APART}, {"validation_accuracy": 0.7 if against == 5 else 0.9, **looked_into}),
        seeds=seeds,
    )


def of_latents(against, seeds):
    width = 0.6 if against == 0 else 0.2
    places = (0.5, 0.5) if against == 1 else (0.2, 0.8)
    cosines = (0.1, 0.5) if against == 2 else (0.5, 0.1)
    first, block = 0.95 if against == 3 else 0.8, 0.95 if against == 4 else 0.8
    layers = [
        {"layer": "cross 1", "cosine": cosines[0], "probe": first},
        {"layer": "self 1", "cosine": 0.3, "probe": block},
        {"layer": "self 2", "cosine": cosines[1], "probe": 0.9},
    ]
    fields = [{"row": place, "column": place, "width": width} for place in places]
    result = runs(({}, {"layers": layers, "fields": fields, "even_width": 0.4}), seeds=seeds)
    for seed, run in enumerate(result["runs"]):  # centres that move as one stay at one distance
        run["fields"][0]["row"] += 0.002 * seed
    return result


def of_query_tuning(against, seeds):
    shares = {
        query_tuning.QUERY: {1: 0.6, 5: 0.7, 100: 0.8},
        query_tuning.ALL: {
            1: 0.7 if against == 0 else 0.5,
            5: 0.8 if against == 2 else 0.6,
            100: 0.7 if against == 4 else 0.9,
        },
        query_tuning.PROBE: {1: 0.65 if against == 1 else 0.4, 5: 0.75 if against == 3 else 0.5, 100: 0.9},
    }
    tried = [
        {"way": way, "shots": shots, "rate": 1, "right": [50 * share, 50 * share]}
        for way, groups in shares.items()
        for shots, share in groups.items()
    ]
    return runs(({}, {"tried": tried, "images": [50, 50]}), seeds=seeds)


def of_elastic(against, seeds):
    places = [(round(8 * share), blocks) for share, blocks in elastic.BUDGETS]
    accuracies = [0.7 if against == number else 0.85 for number in range(len(places))]
    early = {"blocks": 4.5 if against == 5 else 2.5, "accuracy": 0.8 if against == 6 else 0.87}
    found = {
        "budgets": [
            {"latents": latents, "blocks": blocks, "accuracy": accuracy}
            for (latents, blocks), accuracy in zip(places, accuracies, strict=True)
        ],
        "early": [{"confidence": elastic.JUDGED, **early}],
    }
    fixed = [
        ({"trained": elastic.FIXED, "latents": latents, "blocks": blocks}, {"validation_accuracy": 0.8})
        for latents, blocks in places
    ]
    return runs(({"trained": elastic.ELASTIC}, found), ({"trained": elastic.SHORT}, found), *fixed, seeds=seeds)


# How many statements each claim makes. A statement that is not here fails the first test.
STATEMENTS = {
    "attention_maps": (of_attention_maps, 4),
    "complexity": (of_complexity, 11),
    "weight_sharing": (of_weight_sharing, 3),
    "cross_attends": (of_cross_attends, 6),
    "positions": (of_positions, 5),
    "permutation": (of_permutation, 3),
    "latents_depth": (of_latents_depth, 8),
    "content_position": (of_content_position, 6),
    "latents": (of_latents, 5),
    "query_tuning": (of_query_tuning, 5),
    "elastic": (of_elastic, 7),
}
EXACT = {("weight_sharing", 0), ("permutation", 0), ("permutation", 1)}  # numbers that seeds do not change
EXPERIMENTS = study.load_experiments()


def verdicts(name, against=None, seeds=SEEDS):
    result, _ = STATEMENTS[name]
    findings = EXPERIMENTS[name].judge(result(against, seeds))
    assert all(finding.text.endswith(f"({finding.verdict})") for finding in findings)
    return [finding.verdict for finding in findings], conclude(findings)[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_claim_holds_if_all_its_statements_do(name):
    assert verdicts(name) == ([HOLDS] * STATEMENTS[name][1], HOLDS)


@pytest.mark.parametrize(
    ("name", "statement"), [(name, number) for name, (_, count) in STATEMENTS.items() for number in range(count)]
)
def test_each_statement_can_fail(name, statement):
    each, whole = verdicts(name, against=statement)
    expected = [HOLDS] * STATEMENTS[name][1]
    expected[statement] = FAILS
    assert each == expected
    assert whole == IN_PART


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - {"complexity"}))
def test_a_single_seed_decides_nothing(name):
    each, _ = verdicts(name, seeds=1)
    assert each == [HOLDS if (name, number) in EXACT else OPEN for number in range(STATEMENTS[name][1])]


def test_a_noisy_exponent_is_not_decided():
    points = [
        {"value": value, "seconds": seconds, "megabytes": 1.0} for value, seconds in ((1, 1), (2, 9), (4, 1), (8, 20))
    ]
    series = {"name": "cross-attend", "variable": "M", "exponent": 1, "points": points}
    plain = [growth("whole Perceiver", "M", 1, 0.8, 0.8), growth("transformer on pixels", "M", 2, 1.9, 1.0)]
    assert [finding.verdict for finding in complexity.judge({"series": [series, *plain]})] == [OPEN, HOLDS, HOLDS]
