"""Mark the clouds of ModelNet10's training split whose proportions are least like those of their class.

    python docs/modalities/points/attempts/unusual.py FOLDER UNUSUAL

`UNUSUAL/train.parquet` has the rows of `FOLDER/train*.parquet`, and a column `part`: `unusual` for a fifth of each
class.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.model_selection import cross_val_predict

source, target = map(Path, sys.argv[1:])
table = pd.concat(map(pd.read_parquet, sorted(source.glob("train*.parquet"))), ignore_index=True)
points = np.stack([np.stack(cloud) for cloud in table["points"]])
extents = np.log(np.ptp(points, axis=1))
labels = table["label"].to_numpy()
classifier = QuadraticDiscriminantAnalysis(priors=np.full(10, 0.1))
chances = cross_val_predict(classifier, extents[:, :2] - extents[:, 2:], labels, cv=10, method="predict_proba")
place = pd.Series(chances[np.arange(len(table)), labels]).groupby(labels).rank(pct=True)
table["part"] = np.where(place <= 0.2, "unusual", "usual")
target.mkdir(parents=True, exist_ok=True)
table.to_parquet(target / "train.parquet")
