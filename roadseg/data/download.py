"""Download, verify and unpack files.

An interrupted download resumes; a file of the wrong size or hash is never used.
"""

import errno
import http.client
import os
import shutil
import stat
import time
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath

from roadseg import terminal
from roadseg.errors import DownloadError, UserError
from roadseg.files import file_digest

ATTEMPTS = 3
TIMEOUT_SECONDS = 20
CHUNK_BYTES = 1 << 20
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR)
LARGEST_EXPANSION = 10  # unpacked / packed size; for pictures it is near 1


@dataclass(frozen=True)
class Remote:
    """A file to download: address, licence, size and hash."""

    title: str
    url: str
    page: str  # web page for a download by hand
    licence: str
    size: int  # bytes
    algorithm: str  # a name that hashlib knows
    digest: str  # hexadecimal


VGG16_FULL = Remote(
    title="VGG16 with its fully connected layers",
    url="https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    page="https://keras.io/api/applications/vgg/",
    licence="CC BY 4.0; Visual Geometry Group, University of Oxford",
    size=553_467_096,
    algorithm="md5",
    digest="64373286793e3c8b2b4e3219cbf3544b",
)


def download(remote, path):
    """Download a file unless it exists; resume an interrupted download.

    remote: Remote; path: the target; path + ".part" holds the incomplete file. Raises
    DownloadError if it fails, or if size or hash are wrong.
    """
    if path.is_file():
        return
    terminal.say(
        f"{remote.title}: downloading {remote.size / 1e6:.0f} MB (licence: {remote.licence})"
    )
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _fetch(remote, part)
            break
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            reason = " ".join(str(error).split())  # make it one line
            if attempt + 1 < ATTEMPTS:
                time.sleep(2**attempt)
    else:
        raise DownloadError(
            f"{remote.url}: could not be downloaded ({reason}); try again later, or fetch the file "
            f"by hand ({remote.page}) and put it at {path}"
        )
    verify(remote, part)
    os.replace(part, path)


def _fetch(remote, part):
    done = part.stat().st_size if part.is_file() else 0
    if done >= remote.size:
        return
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={done}-"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server sends the whole file again
        part.parent.mkdir(parents=True, exist_ok=True)
        bar = terminal.progress(
            total=remote.size, initial=done, unit="B", unit_scale=True, desc=remote.title
        )
        with bar, part.open("ab" if done else "wb") as file:
            while (chunk := response.read(CHUNK_BYTES)) and done <= remote.size:
                file.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < remote.size:
        raise ConnectionError(f"ended after {part.stat().st_size} of {remote.size} bytes")


def verify(remote, path):
    """Delete the file and raise DownloadError if its size or hash is wrong."""
    digest = file_digest(path, remote.algorithm)
    if (path.stat().st_size, digest) != (remote.size, remote.digest):
        found = f"{path.stat().st_size} bytes, {remote.algorithm} {digest}"
        path.unlink()
        raise DownloadError(
            f"{path}: deleted, because it holds {found}; expected {remote.size} bytes, "
            f"{remote.digest}; start again, or fetch the file by hand ({remote.page})"
        )


def unpack(archive, name, folder):
    """Unpack the top folder `name` of a zip file into `folder`, all or nothing.

    Raises UserError if it is not a zip file, is damaged, holds anything else, or would unpack to
    more than LARGEST_EXPANSION times its size.
    """
    unpacking = folder / f"{name}.unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            _refuse_hostile(opened.infolist(), name, archive)
            for entry in terminal.progress(
                opened.infolist(), desc=f"unpacking {archive.name}", unit="file"
            ):
                opened.extract(entry, unpacking)
        os.replace(unpacking / name, folder / name)
    except Exception as error:  # what is damaged raises many types
        if isinstance(error, UserError) or getattr(error, "errno", None):  # the latter: of the disk
            raise
        raise UserError(
            f"{archive}: not a complete zip file ({error}); remove it and start again"
        ) from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


def _refuse_hostile(entries, name, archive):
    """Raise UserError for entries outside of the folder, links and zip bombs."""
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if parts[:1] != (name,) or ".." in parts or stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"{archive}: holds {entry.filename!r}; expected only files in {name}/")
    size = sum(entry.file_size for entry in entries)
    if not entries or size > LARGEST_EXPANSION * archive.stat().st_size:
        raise UserError(
            f"{archive}: would unpack to {len(entries)} files of {size} bytes; expected at most "
            f"{LARGEST_EXPANSION} times the size of the archive"
        )
