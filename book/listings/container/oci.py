"""An image by hand, as the OCI's layout: blobs named by their digests, and one tag."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

KIND = "application/vnd.oci.image"


def layer(files: Mapping[str, bytes], gone: Sequence[str] = ()) -> bytes:
    """A layer: files that are new or changed, and marks for those that are gone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for path in sorted(gone):  # a whiteout: an empty file with a prefix
            folder, _, name = path.rpartition("/")
            tar.addfile(tarfile.TarInfo(f"{folder}/.wh.{name}".lstrip("/")))
    return out.getvalue()


def write(folder: Path, layers: Sequence[bytes], config: Mapping, tag: str) -> str:
    """Write the image and point the tag at it; returns the manifest's digest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(content: bytes, kind: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        about = {"mediaType": kind, "digest": f"sha256:{digest}"}
        return about | {"size": len(content)}

    packed = [gzip.compress(one, mtime=0) for one in layers]
    diff_ids = ["sha256:" + hashlib.sha256(one).hexdigest() for one in layers]
    about = {"architecture": "amd64", "os": "linux", "config": dict(config)}
    about["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": blob(json.dumps(about).encode(), f"{KIND}.config.v1+json"),
        "layers": [blob(one, f"{KIND}.layer.v1.tar+gzip") for one in packed],
    }
    entry = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return entry["digest"]


def layers(folder: Path) -> Iterator[dict[str, bytes]]:
    """The files of each layer, the lowest first; every blob is compared with its name.

    Raises ValueError for a blob that is not what its name says.
    """

    def blob(digest: str) -> bytes:
        name = digest.removeprefix("sha256:")
        content = (folder / "blobs" / "sha256" / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != name:
            raise ValueError(f"the blob {name[:12]} is not what its name says")
        return content

    index = json.loads((folder / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    blob(manifest["config"]["digest"])
    for one in manifest["layers"]:
        packed = io.BytesIO(blob(one["digest"]))
        with tarfile.open(fileobj=packed) as tar:
            yield {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def merged(stack: Sequence[Mapping[str, bytes]]) -> dict[str, bytes]:
    """What a container sees: each layer over those below it.

    Of the marks it knows those that `layer` writes, and not the one that empties a
    folder (`.wh..wh..opq`).
    """
    seen: dict[str, bytes] = {}
    for files in stack:
        for path in files:
            folder, _, name = path.rpartition("/")
            if name.startswith(".wh."):
                gone = f"{folder}/{name[4:]}".lstrip("/")  # a file, or a whole folder
                for below in [p for p in seen if f"{p}/".startswith(f"{gone}/")]:
                    del seen[below]
        seen |= {path: one for path, one in files.items() if "/.wh." not in f"/{path}"}
    return seen
