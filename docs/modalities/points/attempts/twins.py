"""Count clouds of ModelNet10 that have a twin among the training clouds, and ask the nearest of these for the class.

    python docs/modalities/points/attempts/twins.py FOLDER

A twin is another cloud of the class whose distance is at most 1.1 times that of the halves of the cloud itself.
Distances are those of each point to the nearest point of the other, 512 points of each, as a mean in both directions.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

PAIRS = (("dresser", "night_stand"), ("desk", "table"))
NAMES = ["bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet"]
FEW, CANDIDATES = 128, 8  # points by which the nearest clouds are found first, and how many these are

torch.set_num_threads(1)
order = torch.randperm(1024, generator=torch.Generator().manual_seed(0))


def read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    table = pd.concat(map(pd.read_parquet, sorted(Path(sys.argv[1]).rglob(f"{split}*.parquet"))), ignore_index=True)
    points = np.stack([np.stack(cloud) for cloud in table["points"]]).astype(np.float32)
    return torch.from_numpy(points)[:, order], torch.from_numpy(table["label"].to_numpy())


def distances(cloud: torch.Tensor, clouds: torch.Tensor) -> torch.Tensor:
    """`(M, 3), (n, M, 3) -> (n,)`"""
    found = torch.cdist(cloud[None], clouds)
    return (found.amin(dim=1).mean(dim=-1) + found.amin(dim=2).mean(dim=-1)) / 2


def nearest(cloud: torch.Tensor, clouds: torch.Tensor) -> torch.Tensor:
    return distances(cloud[:FEW], clouds[:, :FEW]).topk(CANDIDATES, largest=False).indices


def has_twin(cloud: torch.Tensor, clouds: torch.Tensor) -> bool:
    others = clouds[nearest(cloud, clouds)]
    return bool(distances(cloud[:512], others[:, 512:]).min() <= 1.1 * distances(cloud[:512], cloud[None, 512:])[0])


def without(clouds: torch.Tensor, row: int) -> torch.Tensor:
    return torch.cat([clouds[:row], clouds[row + 1 :]])


train, train_labels = read("train")
test, test_labels = read("test")
print("| class | training clouds with a twin | test clouds with one |\n|---|---:|---:|")
for label, name in enumerate(tqdm(NAMES, disable=None)):
    own, asked = train[train_labels == label], test[test_labels == label]
    some = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[:200].tolist()
    inside = np.mean([has_twin(own[row], without(own, row)) for row in some])
    outside = np.mean([has_twin(cloud, own) for cloud in asked])
    print(f"| {name} | {inside:.0%} | {outside:.0%} |", flush=True)
for pair in PAIRS:
    rows = torch.cat([(train_labels == NAMES.index(name)).nonzero()[:, 0] for name in pair])
    clouds, labels, right = train[rows], train_labels[rows], []
    for row in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:300].tolist():
        others, theirs = without(clouds, row), without(labels, row)
        found = nearest(clouds[row], others)
        right.append(theirs[found[distances(clouds[row], others[found]).argmin()]] == labels[row])
    print(f"Of 300 training clouds of {' and '.join(pair)} the nearest other is of the class for {np.mean(right):.0%}.")
