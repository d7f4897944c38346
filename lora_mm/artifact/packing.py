"""Packs an adapter folder into one file, and unpacks it without trusting its content. Knows no models.

A packed adapter is an uncompressed tar of the files in ``files.LIMITS``. The same adapter gives the same bytes.
"""

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lora_mm.artifact.files import LIMITS, check_adapter_folder, check_file_sizes, check_no_pickle, list_shared_files
from lora_mm.artifact.outgoing import copy_to_send
from lora_mm.atomic import atomic_file, atomic_folder
from lora_mm.errors import InputError, LoraMMError, truncate_faults

SUFFIX = ".tar"

_MAX_BYTES = 2 * sum(LIMITS.values())
_MAX_MEMBERS = 10 * len(LIMITS)


def pack_adapter(folder: Path, file: Path, say: Callable[[str], None] = lambda line: None) -> int:
    """Pack the adapter in ``folder``, without paths of this machine.

    Args:
        folder: the adapter's folder.
        file: the file to write; it appears only when it is complete.
        say: called with a line for each path that is replaced (see :func:`~.outgoing.copy_to_send`).

    Returns:
        Size of the file in bytes.

    Raises:
        InputError: a folder that cannot be shared, or a ``file`` that exists.
        LoraMMError: the file cannot be written.
    """
    if os.path.lexists(file):
        raise InputError(f"{file}: exists; name another file with --output.")
    with (
        copy_to_send(folder, say) as members,
        atomic_file(file) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for member in members:
            entry = tarfile.TarInfo(member.name)  # defaults: owner 0, mode 0644, time 0
            entry.size = member.stat().st_size
            with member.open("rb") as content:
                tar.addfile(entry, content)
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
        with file.open("rb") as stream:
            members = _read_members(file, stream)
            with atomic_folder(folder) as new_folder:
                for member in members:
                    stream.seek(member.offset_data)
                    (new_folder / member.name).write_bytes(stream.read(member.size))
                _check_unpacked(file, new_folder)
    except OSError as error:
        raise LoraMMError(f"{file}: cannot be read: {error.strerror or error}.") from error


def _read_members(file: Path, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """Read the headers in ``stream``; raises InputError for a member that is not allowed, and for a damaged file.

    Headers of plain files are all that :func:`pack_adapter` writes. ``tarfile.open`` would also read compressed and
    sparse members, which can be of any size, and headers that change other headers.
    """
    size = file.stat().st_size
    if size > _MAX_BYTES:
        raise InputError(f"{file}: {size:,} bytes; a packed adapter has at most {_MAX_BYTES:,}.")
    members: list[tarfile.TarInfo] = []
    faults: list[str] = []
    while any(block := stream.read(tarfile.BLOCKSIZE)):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise InputError(f"{file}: not a packed adapter as `lora-mm share pack` writes it: {error}.") from error
        member.offset_data = stream.tell()
        members.append(member)
        if len(members) > _MAX_MEMBERS:
            raise InputError(f"{file}: more files than a packed adapter has.")
        faults += [f"{file}: {fault}" for fault in _find_faults(member)]
        if not 0 <= member.size <= size - member.offset_data:
            faults.append(f"{file}: cut off or damaged: {member.name!r} has {member.size:,} bytes.")
            break
        stream.seek(-(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, os.SEEK_CUR)
    else:
        rest = stream.read(tarfile.RECORDSIZE + 1)
        if len(block) < tarfile.BLOCKSIZE or len(rest) > tarfile.RECORDSIZE or any(rest):
            faults.append(f"{file}: cut off, or followed by something else.")
    check_no_pickle(str(file), [member.name for member in members])
    counts = Counter(member.name for member in members)
    faults += [f"{file}: {name!r} occurs {count} times." for name, count in counts.items() if count > 1]
    if faults:
        raise InputError(*truncate_faults(faults))
    check_file_sizes(str(file), {member.name: member.size for member in members})
    return members


def _find_faults(member: tarfile.TarInfo) -> Iterator[str]:
    """Find what is wrong with a member; at most one fault."""
    if member.name.startswith("/") or ".." in Path(member.name).parts:
        yield f"{member.name!r} would be written outside the folder."
    elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        yield f"{member.name!r} is not a regular file."
    elif member.name not in LIMITS:
        yield f"{member.name!r} is not a file of an adapter ({', '.join(sorted(LIMITS))})."


def _check_unpacked(file: Path, folder: Path) -> None:
    """Check the unpacked files; messages name the packed file."""
    try:
        check_adapter_folder(folder)
        list_shared_files(folder)
    except InputError as error:
        raise InputError(*(fault.replace(str(folder), str(file)) for fault in error.faults)) from None
