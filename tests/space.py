"""What a Space on the Hub needs of this repository to show scripts/app.py."""

import shutil
from pathlib import Path

from tests.paths import SCRIPTS

SPACE = (
    "app.py",
    "lab/checkpoint_names.py",
    "lab/data/images.py",
    "lab/errors.py",
    "lab/judging/checkpoints.py",
    "lab/looking/image_view.py",
    "lab/looking/maps.py",
    "lab/looking/multimodal_view.py",
    "lab/looking/points_view.py",
    "lab/looking/sound_view.py",
    "lab/looking/style.py",
    "lab/looking/text_view.py",
    "lab/looking/video_view.py",
    "lab/looking/view.py",
    "lab/looking/views.py",
    "lab/waiting.py",
)


def copy_space(folder: Path):
    """Copy the files that docs/hub.md names, each to its place below `folder`."""
    for name in SPACE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SCRIPTS / name, folder / name)
