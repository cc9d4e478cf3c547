"""DGCNN (Wang et al. 2019, https://arxiv.org/abs/1801.07829) as a task for the training program, to compare with.

    PYTHONPATH=docs/modalities/points/attempts python scripts/train.py --config configuration/modelnet10.yaml \
        task=dgcnn:Dgcnn optimization.optimizer=adamw optimization.learning_rate=1e-3 data.path=FOLDER \
        data.validation_samples=0 optimization.cpu_threads=1 output_dir=output/dgcnn

Data, changes, epochs, loss and averaged weights are those of the recipe. Of clouds with more points than training sees
it takes the mean of answers to parts of that size, as how far neighbors are depends on how many points there are.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from lab.tasks.point_cloud_classification import PointCloudClassification
from modeling_perceiver_study import PerceiverStudyConfig

NEIGHBORS, POINTS, WIDTHS = 20, 512, (64, 64, 128, 256)


class EdgeConv(nn.Module):
    """`(B, M, C) -> (B, M, C')`: the largest of what each of the nearest, in these features, makes with its point.

    What a pair makes, `own(x) + edge(y)`, is normalised over all pairs and has a monotone nonlinearity, so the largest
    of `edge(y)` is enough (the smallest, where the norm's weight is negative), and the array of all pairs is not built.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.own, self.edge = nn.Linear(channels, width, bias=False), nn.Linear(channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, values):
        batch, size, _ = values.shape
        with torch.no_grad():
            rows = torch.cdist(values, values).topk(NEIGHBORS, largest=False).indices
            rows = (rows + torch.arange(batch)[:, None, None] * size).flatten()
            starts = torch.arange(0, len(rows), NEIGHBORS)
        values = values.flatten(0, 1)
        edge, sign = self.edge(values).float(), self.norm.weight.detach().sign()
        own = self.own(values).float() - edge
        found = own + sign * nn.functional.embedding_bag(rows, sign * edge, starts, mode="max")
        norm = self.norm
        if self.training:
            beside = nn.functional.embedding_bag(rows, edge, starts, mode="mean")
            times = torch.bincount(rows, minlength=len(edge))[:, None] / NEIGHBORS
            mean = (own + beside).mean(dim=0)
            variance = (own.square() + 2 * own * beside + times * edge.square()).mean(dim=0) - mean.square()
            with torch.no_grad():
                norm.num_batches_tracked += 1
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(variance, norm.momentum)
        else:
            mean, variance = norm.running_mean, norm.running_var
        found = (found - mean) * (variance.clamp(min=0) + norm.eps).rsqrt() * norm.weight + norm.bias
        return nn.functional.leaky_relu(found, 0.2).unflatten(0, (batch, size))


class DgcnnModel(PreTrainedModel):
    config_class = PerceiverStudyConfig
    main_input_name = "points"

    def __init__(self, config):
        super().__init__(config)
        self.convs = nn.ModuleList(map(EdgeConv, (3, *WIDTHS[:-1]), WIDTHS))
        self.all = nn.Linear(sum(WIDTHS), 1024, bias=False)
        self.norm = nn.BatchNorm1d(1024)
        self.head = nn.Sequential(
            nn.Linear(2048, 512, bias=False),
            *(nn.BatchNorm1d(512), nn.LeakyReLU(0.2), nn.Dropout(0.5)),
            nn.Linear(512, 256),
            *(nn.BatchNorm1d(256), nn.LeakyReLU(0.2), nn.Dropout(0.5)),
            nn.Linear(256, config.num_labels),
        )
        self.post_init()

    def forward(self, points, attention_mask=None, labels=None, **ignored):
        logits = [self.logits(part) for part in points.split(POINTS, dim=1)]
        return SequenceClassifierOutput(logits=torch.stack(logits).mean(dim=0))

    def logits(self, values):
        found = []
        for conv in self.convs:
            values = conv(values)
            found.append(values)
        values = self.all(torch.cat(found, dim=-1))
        values = nn.functional.leaky_relu(self.norm(values.flatten(0, 1)).unflatten(0, values.shape[:2]), 0.2)
        return self.head(torch.cat([values.amax(dim=1), values.mean(dim=1)], dim=-1))


class Dgcnn(PointCloudClassification):
    model_class = DgcnnModel
