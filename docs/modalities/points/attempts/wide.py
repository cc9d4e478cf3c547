"""Layers as wide as DGCNN's in front of a Perceiver, as a task for the training program.

    PYTHONPATH=docs/modalities/points/attempts python scripts/train.py --config configuration/modelnet10.yaml \
        task=wide:Wide optimization.epochs=18 augmentation.mix_alpha=0 data.path=FOLDER data.validation_samples=0 \
        optimization.cpu_threads=2 output_dir=output/wide

Each layer looks at the 20 nearest in space, which are found once. The Perceiver is the recipe's without its stem, and
half of the channels of its answer are dropped in training. Of clouds with more points than training sees it takes the
mean of answers to parts of that size.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from lab.tasks.point_cloud_classification import PointCloudClassification
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel

NEIGHBORS, POINTS, WIDTHS, OUT = 20, 512, (64, 64, 128, 256), 128


class EdgeConv(nn.Module):
    """`(B * M, C), (B * M, k) -> (B * M, C')`: the largest of what each neighbor makes with its point, then a norm."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.own, self.edge = nn.Linear(channels, width, bias=False), nn.Linear(channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, values, rows):
        edge = self.edge(values)
        found = nn.functional.embedding_bag(rows, edge.float(), mode="max") + self.own(values) - edge
        return nn.functional.leaky_relu(self.norm(found), 0.2)


class WideModel(PreTrainedModel):
    config_class = PerceiverStudyConfig
    main_input_name = "points"

    def __init__(self, config):
        super().__init__(config)
        own = {"num_channels": OUT, "stem_type": "none", "stem_channels": 64}
        self.convs = nn.ModuleList(map(EdgeConv, (3, *WIDTHS[:-1]), WIDTHS))
        self.all = nn.Linear(sum(WIDTHS), OUT, bias=False)
        self.norm = nn.BatchNorm1d(OUT)
        self.perceiver = PerceiverStudyModel(PerceiverStudyConfig(**config.to_diff_dict() | own))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(config.d_latents, config.num_labels))
        self.post_init()

    def forward(self, points, attention_mask=None, labels=None, **ignored):
        parts = [points] if self.training else points.split(POINTS, dim=1)
        return SequenceClassifierOutput(logits=torch.stack([self.logits(part) for part in parts]).mean(dim=0))

    def logits(self, points):
        batch, size, _ = points.shape
        with torch.no_grad():
            rows = torch.cdist(points, points).topk(NEIGHBORS, largest=False).indices
            rows = (rows + torch.arange(batch)[:, None, None] * size).flatten(0, 1)
        values, found = points.flatten(0, 1), []
        for conv in self.convs:
            values = conv(values, rows)
            found.append(values)
        features = nn.functional.leaky_relu(self.norm(self.all(torch.cat(found, dim=-1))), 0.2)
        latents = self.perceiver(points=points, point_features=features.unflatten(0, (batch, size))).last_hidden_state
        return self.classifier(latents.mean(dim=1))


class Wide(PointCloudClassification):
    model_class = WideModel
