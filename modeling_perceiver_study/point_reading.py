"""Clouds of points in files: NumPy arrays (.npy), meshes and scans (.ply, .off), and those of the PCL (.pcd).

The kind is told by how the content begins, not by the name of the file.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .fetching import fetched, file_in, is_url

_COMMENTS = re.compile(rb"\s*(?:#[^\n]*\n?\s*)*")
_FILLING = ("_", "#$%&~~")  # how fields begin that hold nothing, the latter as pypcd4 calls them


def open_points(
    source: Any,
    num_axes: int = 3,
    feature_names: Sequence[str] | None = None,
    num_points: int | None = None,
) -> np.ndarray:
    """The cloud `(m, columns)` in a file: coordinates of each point, then its other numbers.

    Args:
        source: a path, a URL, the bytes of a file, a file object, or a dict of `datasets` with `bytes` or `path`.
        num_axes: how many of `x`, `y` and `z` are read of .ply, .off and .pcd files. Of more than three the others are
            the first fields of .ply and .pcd files that are neither these nor in `feature_names`.
        feature_names: which other fields of .ply and .pcd files are read; None reads all, in the order of the file.
            Whole numbers of 8 and 16 bits, which colours are, become shares of the largest; the colours that the PCL
            packs into a field `rgb` or `rgba` become the fields `red`, `green` and `blue`.
        num_points: of a file with faces, so many points are taken evenly over its surface, always the same; None takes
            its vertices.

    Raises:
        ValueError: it is none of these, has not the fields, or cannot be read; says so.
        OSError: there is no such file, or a URL cannot be fetched.
        ImportError: the library that reads it is not installed.
    """
    source = file_in(source)
    name, content = "the bytes", source
    if is_url(source):
        name, content = source, fetched(source)
    elif not isinstance(source, bytes):
        name, content = str(source), Path(source).expanduser().read_bytes()
    content = content.removeprefix(b"\xef\xbb\xbf")  # which some editors write before a text
    begin = _begin(content)
    start = content[begin : begin + 1000]
    if start.startswith(b"\x93NUMPY"):
        reader, needs = _numpy, "numpy"
    elif start.startswith(b"ply"):
        reader, needs = _ply, "trimesh"
    elif start.startswith(b"OFF") or b"".join(start.split(None, 1)[:1]) in (b"COFF", b"NOFF", b"CNOFF"):
        reader, needs = _off, "trimesh"
    elif content.lstrip().startswith(b"# .PCD") or start.startswith(b"VERSION"):
        reader, needs = _pcd, "pypcd4"
    else:
        raise ValueError(f"{name} is not a cloud of points: expected a .npy, .ply, .off or .pcd file.")
    try:
        return reader(content, num_axes, feature_names, num_points)
    except ImportError:
        raise ImportError(f"{name} is read with {needs}: install it with `pip install {needs}`.") from None
    except Exception as error:  # readers let out nearly anything that Python raises
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} cannot be read as a cloud of points: {reason}") from None


def _begin(content: bytes) -> int:
    """Where something follows that is neither white space nor a comment; looked for without a copy of the file."""
    return _COMMENTS.match(content).end()


def _numpy(content: bytes, num_axes: int, feature_names: Sequence[str] | None, num_points: int | None) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def _off(content: bytes, num_axes: int, feature_names: Sequence[str] | None, num_points: int | None) -> np.ndarray:
    if num_axes > 3:
        raise ValueError(f"it holds points in three dimensions: give those of num_axes={num_axes} as .npy")
    mesh = _mesh(content[_begin(content) :], "off")
    if feature_names:
        raise ValueError(f"it has no fields {', '.join(feature_names)}; .off files hold coordinates alone")
    return _vertices_or_surface(mesh, num_points)[:, :num_axes]


def _ply(content: bytes, num_axes: int, feature_names: Sequence[str] | None, num_points: int | None) -> np.ndarray:
    head = content[: content.find(b"end_header")]
    if missing := [axis for axis in "xyz" if not re.search(rb"\sproperty\s+\w+\s+%c\s" % axis.encode(), head)]:
        raise ValueError(f"it has no {', '.join(missing)}, without which trimesh reads no .ply file: give it as .npy")
    mesh = _mesh(content, "ply")
    if num_points is not None and len(getattr(mesh, "faces", ())):
        if num_axes > 3:
            raise ValueError("points on its faces have three coordinates; num_points=None takes vertices")
        if feature_names:
            raise ValueError(f"points on its faces have no {', '.join(feature_names)}; num_points=None takes vertices")
        return _vertices_or_surface(mesh, num_points)[:, :num_axes]
    data = mesh.metadata["_ply_raw"]["vertex"].get("data")
    if data is None:
        raise ValueError("it has no vertices")
    names = data.dtype.names if isinstance(data, np.ndarray) else data  # binary files, and those of text
    return _columns({field: np.asarray(data[field]) for field in names}, num_axes, feature_names)


def _pcd(content: bytes, num_axes: int, feature_names: Sequence[str] | None, num_points: int | None) -> np.ndarray:
    from pypcd4 import PointCloud

    cloud = PointCloud.from_fileobj(io.BytesIO(_with_counts(content)))
    if (count := np.size(cloud.pc_data)) != cloud.points:
        raise ValueError(f"it has {count} points and says that it has {cloud.points}")
    data = {}
    for field in cloud.fields:
        if field in ("rgb", "rgba"):
            colours = PointCloud.decode_rgb(np.ascontiguousarray(cloud.pc_data[field]))
            data |= dict(zip(("red", "green", "blue"), colours.T, strict=True))
        elif not field.startswith(_FILLING):
            data[field] = cloud.numpy([field])
    return _columns(data, num_axes, feature_names)


def _with_counts(content: bytes) -> bytes:
    """A .pcd file with how many numbers each field has: one where it does not say so."""
    head, data, rest = content.partition(b"\nDATA")
    lines = {line.split(None, 1)[0]: line.split()[1:] for line in head.splitlines() if line.strip()}
    if b"COUNT" in lines or b"FIELDS" not in lines:
        return content
    return head + b"\nCOUNT" + b" 1" * len(lines[b"FIELDS"]) + data + rest


def _mesh(content: bytes, kind: str):
    import trimesh

    # Unprocessed, as otherwise equal vertices become one.
    return trimesh.load(io.BytesIO(content), file_type=kind, process=False)


def _vertices_or_surface(mesh, num_points: int | None) -> np.ndarray:
    if num_points is None or not len(getattr(mesh, "faces", ())):
        return np.asarray(mesh.vertices)
    import trimesh

    if not np.isfinite(mesh.vertices[mesh.faces]).all():
        raise ValueError("corners of its faces are NaN or infinite, so it has no surface; num_points=None takes them")
    return np.asarray(trimesh.sample.sample_surface(mesh, num_points, seed=0)[0])


def _columns(data: dict[str, np.ndarray], num_axes: int, feature_names: Sequence[str] | None) -> np.ndarray:
    others = [field for field in data if field not in ("x", "y", "z")]
    axes = ["x", "y", "z", *(field for field in others if field not in (feature_names or ()))][:num_axes]
    if len(axes) < num_axes:
        raise ValueError(f"it has fields {', '.join(data)}: expected num_axes={num_axes} coordinates among them")
    if feature_names is None:
        feature_names = [field for field in others if field not in axes]
    wanted = [*axes, *feature_names]
    if missing := [field for field in wanted if field not in data]:
        raise ValueError(f"it has no field {', '.join(missing)}; there are {', '.join(data)}")
    shares = [_shares(data[field].reshape(-1)) for field in feature_names]
    return np.stack([*(data[field].reshape(-1) for field in axes), *shares], axis=1)


def _shares(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # in either order of bytes
        return values / np.iinfo(values.dtype).max
    return values


__all__ = ["open_points"]
