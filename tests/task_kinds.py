"""Every task of this repository, tiny: data on disk, a recipe that takes seconds, a file to ask about."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import soundfile
from PIL import Image

from tests.small_data import CLASSES, TINY_RUN, coloured_images, make_parquet

_MODEL = [
    name for name in TINY_RUN if name.startswith("model.") and "image_size" not in name and "channels" not in name
]
_RUN = [name for name in TINY_RUN if name.startswith(("data.", "optimization.", "checkpoint.", "logging."))]
_READS_SOUND, _READS_CLIPS, _READS_POINTS = " soundfile soxr", " av", " trimesh pypcd4"
RATE = 1000
TONES = ["low", "middle", "high"]


@dataclass(frozen=True)
class Kind:
    """A tiny task.

    Attributes:
        recipe: overrides of the defaults, without data and output.
        changes: random changes of its samples, all that there are.
        write_data: writes splits `train` and `test` into a folder.
        write_file: writes a file to ask about into a folder; returns its path.
        judged: an entry of what `task.judge` says.
        classifies: its pipeline names classes.
        answers: how many `predict.py` gives to that file: of each task, or of each masked byte, one.
        modalities: of a sample of several the column of each; otherwise the first column is the sample.
        packages: what its files are read with beyond what all models need, as a card says it.
    """

    recipe: list[str]
    changes: list[str]
    write_data: Callable[[Path], Path]
    write_file: Callable[[Path], Path]
    judged: str = "logits"
    classifies: bool = True
    answers: int = 1
    modalities: dict[str, str] | None = None
    packages: str = ""

    def read(self, rows: datasets.Dataset) -> tuple[list, list[int]]:
        """What a pipeline takes of each row, and the labels."""
        if self.modalities is None:
            samples, labels = (list(rows[name]) for name in rows.column_names[:2])
            return samples, labels
        return [{name: row[column] for name, column in self.modalities.items()} for row in rows], list(rows["label"])


def tones(count: int, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Recordings of 60 to 260 samples, with a tone of the class in noise; some are longer than a model looks at."""
    rng = np.random.default_rng(seed)
    labels = [index % len(TONES) for index in range(count)]
    recordings = []
    for label in labels:
        time = np.arange(rng.integers(60, 260)) / RATE
        tone = np.sin(2 * np.pi * (60 + 150 * label) * time + rng.uniform(0, 6))
        recordings.append((0.5 * tone + 0.05 * rng.normal(size=len(time))).astype(np.float32))
    return recordings, labels


def encoded_sound(samples: np.ndarray, format: str = "WAV", rate: int = RATE) -> bytes:
    """Bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format)
    return file.getvalue()


def make_sound(folder: Path) -> Path:
    """`folder/train.parquet` and `folder/test.parquet`, with columns `audio` and `label`."""
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        recordings, labels = tones(count, seed)
        rows = {
            "audio": [{"bytes": encoded_sound(one), "path": None} for one in recordings],
            "label": labels,
            "speaker": ["abc"[index % 4 % 3] for index in range(count)],
        }
        # A cast, as `datasets` wants torchcodec to encode what is encoded already.
        table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
        table.cast_column("label", datasets.ClassLabel(names=TONES)).to_parquet(folder / f"{split}.parquet")
    return folder


def make_series(folder: Path) -> Path:
    """The same tones as lists of two channels."""
    features = datasets.Features(
        {"series": datasets.List(datasets.List(datasets.Value("float32"))), "label": datasets.ClassLabel(names=TONES)}
    )
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        recordings, labels = tones(count, seed)
        rows = {"series": [[list(one), list(-one)] for one in recordings], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def write_series(folder: Path) -> Path:
    """A series of two channels of the first class, longer than a model looks at, as a table."""
    samples = np.concatenate([tones(7, seed=3)[0][index] for index in (0, 3, 6)])
    np.savetxt(folder / "series.csv", np.stack([samples, -samples], axis=1), delimiter=",", header="x,y", comments="")
    return folder / "series.csv"


def write_image(folder: Path) -> Path:
    """An image of the first class."""
    coloured_images(1, seed=3)[0][0].save(folder / "image.png")
    return folder / "image.png"


def write_sound(folder: Path) -> Path:
    """A recording of the first class, longer than a model looks at."""
    samples = np.concatenate([tones(7, seed=3)[0][index] for index in (0, 3, 6)])
    (folder / "sound.wav").write_bytes(encoded_sound(samples))
    return folder / "sound.wav"


SHAPES = ["line", "plane", "ball"]


def clouds(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Clouds `(10 to 20, 4)` on a line, in a plane and in space; the last number of a point says nothing."""
    rng, found = np.random.default_rng(seed), []
    labels = np.arange(count) % len(SHAPES)
    for label in labels:
        points = rng.normal(size=(rng.integers(10, 21), 4))
        points[:, label + 1 : 3] *= 0.05
        found.append(points.astype(np.float32))
    return found, labels


def make_points(folder: Path) -> Path:
    """`folder/train.parquet` and `folder/test.parquet`: `cloud`, `label`, and two numbers that depend on the cloud."""
    numbers = datasets.Value("float32")
    features = {"cloud": datasets.List(datasets.List(numbers)), "label": datasets.ClassLabel(names=SHAPES)}
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        found, labels = clouds(count, seed)
        rows = {"cloud": [cloud.tolist() for cloud in found], "label": labels}
        rows |= {"spread": [cloud.std() * 100 for cloud in found], "height": [cloud[:, 2].max() for cloud in found]}
        table = datasets.Dataset.from_dict(
            rows, features=datasets.Features(features | {"spread": numbers, "height": numbers})
        )
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def write_cloud(folder: Path) -> Path:
    """A cloud of the first class."""
    np.save(folder / "cloud.npy", clouds(1, seed=3)[0][0])
    return folder / "cloud.npy"


VOWELS = ["with a", "with e", "with u"]


def texts(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of 3 to 60 letters with one vowel, some of them of two bytes; a few are longer than a model looks at."""
    rng, found = np.random.default_rng(seed), []
    labels = np.arange(count) % len(VOWELS)
    for label in labels:
        letters = [*"bcdfg hkl", *["aeu"[label], "äëü"[label]] * 4]
        found.append("".join(rng.choice(letters, rng.integers(3, 61))).strip() or "aeu"[label])
    return found, labels


def make_texts(folder: Path) -> Path:
    """`folder/train.parquet` and `folder/test.parquet`, with columns `text` and `label`."""
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=VOWELS)}
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        found, labels = texts(count, seed)
        table = datasets.Dataset.from_dict({"text": found, "label": labels}, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def make_text_tasks(folder: Path) -> Path:
    """The same texts with two tasks, `vowel` and `length`; some have a label of one of them alone."""
    features = {"text": datasets.Value("string"), "vowel": datasets.ClassLabel(names=VOWELS)}
    features |= {"length": datasets.ClassLabel(names=["short", "long"])}
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        found, labels = texts(count, seed)
        rows = {
            "text": found,
            "vowel": [None if index % 7 == 3 else int(label) for index, label in enumerate(labels)],
            "length": [None if index % 7 == 5 else int(len(text) > 30) for index, text in enumerate(found)],
        }
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def clips(count: int, seed: int) -> tuple[list[list[Image.Image]], list[int]]:
    """Clips of 2 to 7 frames of 12 x 16; some longer than a model looks at; the channel of the class is bright."""
    rng = np.random.default_rng(seed)
    labels = [index % len(CLASSES) for index in range(count)]
    found = []
    for label in labels:
        frames = rng.integers(0, 160, (rng.integers(2, 8), 12, 16, 3), dtype=np.uint8)
        frames[..., label] += 60
        found.append([Image.fromarray(frame) for frame in frames])
    return found, labels


def make_clips(folder: Path) -> Path:
    """`folder/train.parquet` and `folder/test.parquet`, with columns `frames` and `label`."""
    features = {"frames": datasets.List(datasets.Image()), "label": datasets.ClassLabel(names=CLASSES)}
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        found, labels = clips(count, seed)
        rows = {"frames": found, "label": labels}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def write_text(folder: Path) -> Path:
    """A text of the first class, longer than a model looks at."""
    (folder / "text.txt").write_text("bad hat, clä lad " * 5, encoding="utf-8")
    return folder / "text.txt"


def write_masked_text(folder: Path) -> Path:
    """A text with masked bytes."""
    (folder / "text.txt").write_text("bad h[MASK]t, c[MASK]d", encoding="utf-8")
    return folder / "text.txt"


def write_clip(folder: Path) -> Path:
    """A clip of the first class, as an animation."""
    first, *others = clips(1, seed=3)[0][0]
    first.save(folder / "clip.gif", save_all=True, append_images=others, duration=40)
    return folder / "clip.gif"


def make_several(folder: Path) -> Path:
    """Clips with a series of two channels, one of which is missing in some rows."""
    features = datasets.Features(
        {
            "frames": datasets.List(datasets.Image()),
            "series": datasets.List(datasets.List(datasets.Value("float32"))),
            "label": datasets.ClassLabel(names=CLASSES),
        }
    )
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        (frames, labels), (recordings, _) = clips(count, seed), tones(count, seed)
        rows = {
            "frames": [None if index % 7 == 3 else one for index, one in enumerate(frames)],
            "series": [None if index % 7 == 5 else [list(one), list(-one)] for index, one in enumerate(recordings)],
            "label": labels,
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def write_several(folder: Path) -> Path:
    """A clip and a series of the first class."""
    frames, series = clips(1, seed=3)[0][0], tones(1, seed=3)[0][0]
    np.savez(folder / "sample.npz", video=np.stack([np.asarray(frame) for frame in frames]), sound=[series, -series])
    return folder / "sample.npz"


def make_captions(folder: Path) -> Path:
    """Texts with a series of two channels, one of which is missing in some rows."""
    features = {"text": datasets.Value("string"), "series": datasets.List(datasets.List(datasets.Value("float32")))}
    features |= {"label": datasets.ClassLabel(names=TONES)}
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        (found, labels), (recordings, _) = texts(count, seed), tones(count, seed)
        rows = {
            "text": [None if index % 7 == 3 else one for index, one in enumerate(found)],
            "series": [None if index % 7 == 5 else [list(one), list(-one)] for index, one in enumerate(recordings)],
            "label": labels,
        }
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def write_caption(folder: Path) -> Path:
    """A text and a series of the first class."""
    series = tones(1, seed=3)[0][0]
    np.savez(folder / "sample.npz", text="bad hat, clä lad", sound=[series, -series])
    return folder / "sample.npz"


def make_sights(folder: Path) -> Path:
    """An image, a cloud and a recording of each class, one of which is missing in some rows."""
    numbers = datasets.List(datasets.List(datasets.Value("float32")))
    encoded = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}  # cast, as in `make_sound`
    features = {"image": datasets.Image(), "cloud": numbers, "audio": encoded}
    features |= {"label": datasets.ClassLabel(names=CLASSES)}
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        images, labels = coloured_images(count, seed)
        parts = {
            "image": images,
            "cloud": [cloud[:, :3].tolist() for cloud in clouds(count, seed)[0]],
            "audio": [{"bytes": encoded_sound(one), "path": None} for one in tones(count, seed)[0]],
        }
        rows = {
            name: [None if index % 7 == 3 + place else one for index, one in enumerate(samples)]
            for place, (name, samples) in enumerate(parts.items())
        }
        table = datasets.Dataset.from_dict(rows | {"label": labels}, features=datasets.Features(features))
        table.cast_column("audio", datasets.Audio(decode=False)).to_parquet(folder / f"{split}.parquet")
    return folder


def write_sight(folder: Path) -> Path:
    """An image, a cloud and a recording."""
    image, cloud = np.asarray(coloured_images(1, seed=3)[0][0]), clouds(1, seed=3)[0][0][:, :3]
    np.savez(folder / "sample.npz", picture=image, cloud=cloud, sound=tones(1, seed=3)[0][0])
    return folder / "sample.npz"


_SOUND = [
    "task=audio-classification",
    f"feature_extractor.sampling_rate={RATE}",
    "feature_extractor.max_length=160",
    *_MODEL,
    *_RUN,
]
_SOUND_CHANGES = [
    "augmentation.speed=[0.8,1.2]",
    "augmentation.shift=0.02",
    "augmentation.silence=0.03",
    "augmentation.gain=3",
    "augmentation.noise=[10,20]",
    "augmentation.time_masks=1",
    "augmentation.mixup_alpha=0.3",
]
_TEXT = [
    *(name for name in _MODEL if "frequency" not in name),
    *_RUN,
    "model.d_model=16",
    "model.max_position_embeddings=48",
    "model.ngram_sizes=[-2,2,3]",
    "model.ngram_vocab_size=64",
]
KINDS = {
    "images": Kind(
        TINY_RUN, ["augmentation.crop_padding=1", "augmentation.mixup_alpha=0.3"], make_parquet, write_image
    ),
    "spectrograms": Kind(
        [
            *_SOUND,
            "feature_extractor.feature_type=log-mel",
            "feature_extractor.num_mel_bins=8",
            "feature_extractor.frame_length=32",
            "feature_extractor.hop_length=16",
            "model.patch_size=[2,4]",
        ],
        [
            *_SOUND_CHANGES,
            "augmentation.vocal_tract=[0.8,1.2]",
            "augmentation.equalizer=3",
            "augmentation.band_masks=1",
        ],
        make_sound,
        write_sound,
        packages=_READS_SOUND,
    ),
    "points": Kind(
        [
            "task=point-cloud-classification",
            "data.columns.label=label",
            *_MODEL,
            *_RUN,
            "model.num_channels=1",
            "model.stem_type=neighbors",
            "model.stem_channels=8",
            "model.num_neighbors=4",
            "model.neighbor_channels=[6,8]",
            "model.num_axes=3",
            "model.max_frequencies=3",
        ],
        [
            "augmentation.num_points=12",
            "augmentation.mirror=[1]",
            "augmentation.rotation=20",
            "augmentation.tilt=5",
            "augmentation.stretch=0.1",
            "augmentation.point_scale=0.01",
            "augmentation.jitter=0.01",
            "augmentation.shift=0.05",
            "augmentation.mix_alpha=0.3",
        ],
        make_points,
        write_cloud,
        packages=_READS_POINTS,
    ),
    "series": Kind(
        [*_SOUND, "feature_extractor.feature_size=2", "feature_extractor.normalize=channel", "model.patch_size=8"],
        _SOUND_CHANGES,
        make_series,
        write_series,
        packages=_READS_SOUND,
    ),
    "text": Kind(
        ["task=text-classification", *_TEXT],
        [
            "augmentation.window=[10,40]",
            "augmentation.case_share=0.3",
            "augmentation.typos=0.1",
            "augmentation.mask_share=0.1",
        ],
        make_texts,
        write_text,
    ),
    "several tasks": Kind(
        [
            "task=text-classification",
            *(name for name in _TEXT if "num_labels" not in name),
            "model.tasks={vowel: 3, length: 2}",
            "model.decoder_type=query",
        ],
        ["augmentation.window=[10,40]", "augmentation.typos=0.1"],
        make_text_tasks,
        write_text,
        answers=2,
    ),
    "masked-lm": Kind(
        ["task=masked-lm", *(name for name in _TEXT if "num_labels" not in name)],
        ["augmentation.masked=spans", "augmentation.span=2"],
        make_texts,
        write_masked_text,
        judged="nats",
        classifies=False,
        answers=2,
    ),
    "video": Kind(
        ["task=video-classification", *_MODEL, *_RUN, "model.image_size=[6,6,8]", "model.patch_size=[2,3,4]"],
        [
            "augmentation.flip=true",
            "augmentation.zoom=[0.9,1.2]",
            "augmentation.shift=0.1",
            "augmentation.rotation=10",
            "augmentation.stretch=0.1",
            "augmentation.speed=[0.8,1.2]",
            "augmentation.time_shift=1",
            "augmentation.contrast=0.1",
            "augmentation.brightness=0.1",
            "augmentation.noise=0.1",
            "augmentation.time_masks=1",
            "augmentation.erase=0.5",
            "augmentation.mixup_alpha=0.3",
        ],
        make_clips,
        write_clip,
        packages=_READS_CLIPS,
    ),
    "multimodal": Kind(
        [
            "task=multimodal-classification",
            *(name for name in _MODEL if "bands" not in name),
            *_RUN,
            "data.columns={video: frames, sound: series}",
            "feature_extractor.modalities={video: {task: video-classification}, sound: {task: audio-classification, "
            f"sampling_rate: {RATE}, max_length: 160, feature_size: 2}}}}",
            "model.modalities={video: {image_size: [6,6,8], patch_size: [2,3,4], num_frequency_bands: 2}, "
            "sound: {patch_size: 8, num_frequency_bands: 2}}",
        ],
        [
            "augmentation.modalities={video: {flip: true, speed: [0.8,1.2]}, sound: {shift: 0.02, noise: [10,20]}}",
            "augmentation.mixup_alpha=0.3",
        ],
        make_several,
        write_several,
        modalities={"video": "frames", "sound": "series"},
        packages=_READS_CLIPS + _READS_SOUND,
    ),
    "captions": Kind(
        [
            "task=multimodal-classification",
            *(name for name in _MODEL if "bands" not in name),
            *_RUN,
            "data.columns={text: text, sound: series}",
            "feature_extractor.modalities={text: {task: text-classification, model_max_length: 40}, "
            f"sound: {{task: audio-classification, sampling_rate: {RATE}, max_length: 160, feature_size: 2}}}}",
            "model.modalities={text: {d_model: 12, max_position_embeddings: 50}, "
            "sound: {patch_size: 8, num_frequency_bands: 2}}",
        ],
        ["augmentation.modalities={text: {typos: 0.1, window: [10,30]}, sound: {shift: 0.02, noise: [10,20]}}"],
        make_captions,
        write_caption,
        modalities={"text": "text", "sound": "series"},
        packages=_READS_SOUND,
    ),
    "sights": Kind(
        [
            "task=multimodal-classification",
            *(name for name in _MODEL if "bands" not in name),
            *_RUN,
            "data.columns={picture: image, cloud: cloud, sound: audio}",
            "feature_extractor.modalities={picture: {task: image-classification, size: 8}, "
            f"cloud: {{task: point-cloud-classification}}, sound: {{task: audio-classification, sampling_rate: {RATE}, "
            "max_length: 160, feature_type: log-mel, num_mel_bins: 8, frame_length: 32, hop_length: 16}}",
            "model.modalities={picture: {image_size: 8, patch_size: 2, num_frequency_bands: 2}, cloud: {num_axes: 3, "
            "num_channels: 0, max_frequencies: 3, num_frequency_bands: 2}, sound: {patch_size: [2,4], "
            "num_frequency_bands: 2}}",
        ],
        [
            "augmentation.modalities={picture: {crop_padding: 1}, cloud: {rotation: 20, jitter: 0.01}, sound: {shift: "
            "0.02, band_masks: 1}}",
        ],
        make_sights,
        write_sight,
        modalities={"picture": "image", "cloud": "cloud", "sound": "audio"},
        packages=" pypcd4 soundfile soxr trimesh",
    ),
    "waveforms": Kind([*_SOUND, "model.patch_size=8"], _SOUND_CHANGES, make_sound, write_sound, packages=_READS_SOUND),
}
