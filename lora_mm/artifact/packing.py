"""Packs an adapter folder into one file, and unpacks it without trusting its content. Knows no models.

A packed adapter is an uncompressed tar of the files in ``files.LIMITS``. The same adapter gives the same bytes.
"""

import os
import shutil
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from lora_mm.artifact.files import LIMITS, check_adapter_folder, check_file_sizes, check_no_pickle, list_shared_files
from lora_mm.atomic import atomic_folder, explain_write_errors
from lora_mm.errors import InputError, LoraMMError, truncate_faults

SUFFIX = ".tar"

_MAX_BYTES = 2 * sum(LIMITS.values())
_MAX_MEMBERS = 10 * len(LIMITS)


def pack_adapter(folder: Path, file: Path) -> int:
    """Pack the adapter in ``folder``.

    Args:
        folder: the adapter's folder.
        file: the file to write; it appears only when it is complete.

    Returns:
        Size of the file in bytes.

    Raises:
        InputError: not an adapter folder, a file above its limit, or a ``file`` that exists.
        LoraMMError: the file cannot be written.
    """
    members = list_shared_files(folder)
    if file.exists():
        raise InputError(f"{file}: exists; name another file with --output.")
    with explain_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        temporary = Path(name)
        try:
            with (
                os.fdopen(handle, "wb") as stream,
                tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                for member in members:
                    entry = tarfile.TarInfo(member.name)  # defaults: owner 0, mode 0644, time 0
                    entry.size = member.stat().st_size
                    with member.open("rb") as content:
                        tar.addfile(entry, content)
            temporary.chmod(0o644)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    return file.stat().st_size


def unpack_adapter(file: Path, folder: Path) -> None:
    """Unpack an adapter, after a check of every member.

    Args:
        file: packed adapter, from anyone.
        folder: the folder to create; it appears only when it is complete and checked.

    Raises:
        InputError: ``file`` holds anything but the files of an adapter, each once and below its limit, or ``folder``
            exists.
        LoraMMError: the folder cannot be written.
    """
    try:
        # Never compressed: a small compressed file can unpack to any size.
        with tarfile.open(file, mode="r:") as tar:
            members = _read_members(file, tar)
            with atomic_folder(folder) as new_folder:
                for member in members:
                    content = tar.extractfile(member)
                    assert content is not None  # every member is a regular file
                    with (new_folder / member.name).open("wb") as target:
                        shutil.copyfileobj(content, target)
                _check_unpacked(file, new_folder)
    except tarfile.TarError as error:
        raise InputError(f"{file}: not a packed adapter as `lora-mm share pack` writes it: {error}.") from error
    except OSError as error:
        raise LoraMMError(f"{file}: cannot be read: {error.strerror or error}.") from error


def _read_members(file: Path, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Read the members of ``tar``; raises InputError for any that is not allowed."""
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{file}: {file.stat().st_size:,} bytes; a packed adapter has at most {_MAX_BYTES:,}.")
    members: list[tarfile.TarInfo] = []
    for member in tar:
        members.append(member)
        if len(members) > _MAX_MEMBERS:
            raise InputError(f"{file}: more files than a packed adapter has.")
    check_no_pickle(str(file), [member.name for member in members])
    faults = [f"{file}: {fault}" for member in members if (fault := _find_fault(member))]
    counts = Counter(member.name for member in members)
    faults += [f"{file}: {name} occurs {count} times." for name, count in counts.items() if count > 1]
    if faults:
        raise InputError(*truncate_faults(faults))
    check_file_sizes(str(file), {member.name: member.size for member in members})
    return members


def _find_fault(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in Path(member.name).parts:
        return f"{member.name!r} would be written outside the folder."
    if not member.isreg() or member.issparse():
        return f"{member.name!r} is not a regular file."
    if member.name not in LIMITS:
        return f"{member.name!r} is not a file of an adapter ({', '.join(sorted(LIMITS))})."
    return None


def _check_unpacked(file: Path, folder: Path) -> None:
    """Check the unpacked files; messages name the packed file."""
    try:
        check_adapter_folder(folder)
        list_shared_files(folder)
    except InputError as error:
        raise InputError(*(fault.replace(str(folder), str(file)) for fault in error.faults)) from None
