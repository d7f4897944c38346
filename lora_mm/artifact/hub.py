"""Adapters by whatever people call them (a folder, a packed file, a Hub id), and to and from the Hub. Imports no torch.

From a repository only the files of an adapter are taken, from one commit, after their names and sizes were looked at.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_mm.artifact.files import (
    LIMITS,
    PREPROCESSING,
    RECIPE,
    REQUIRED,
    check_adapter_folder,
    check_file_sizes,
    check_no_pickle,
    list_shared_files,
    read_json_object,
)
from lora_mm.artifact.packing import SUFFIX, unpack_adapter
from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError, LoraMMError
from lora_mm.hub_access import cache_folder, connection_error

ORIGIN = "origin.json"
"""Beside a pulled adapter: the repository and the commit that it is from."""

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True, slots=True)
class LocatedAdapter:
    """An adapter on this machine.

    Attributes:
        folder: where it is.
        name: what people would call it.
        repo, commit: on the Hub, where it is from there.
    """

    folder: Path
    name: str
    repo: str | None = None
    commit: str | None = None

    @property
    def origin(self) -> str | None:
        """Where it is from, in words."""
        return f"{self.repo} at commit {self.commit}" if self.repo else None


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push left on the Hub."""

    repo: str
    commit: str
    url: str
    private: bool


def find_adapter(text: str | Path) -> Path:
    """The folder of the adapter that ``text`` names; see :func:`locate_adapter`."""
    return locate_adapter(str(text)).folder


def locate_adapter(text: str, revision: str | None = None) -> LocatedAdapter:
    """The adapter called ``text``: a folder, a packed file, or a Hub id, ``ID@REVISION`` for a certain commit of it.

    What is here by that name comes first. A packed file is unpacked under ``$HF_HOME/lora-mm``, once for each content.
    What is on the Hub is kept in its cache, where it is found again without network.

    Raises:
        InputError: when there is none, or it is no adapter that may be read; says what was looked for and where.
    """
    path = Path(text).expanduser()
    if revision is not None and path.exists():
        raise InputError(f"--revision {revision}: '{text}' is here already; only what is on the Hub has revisions.")
    if path.is_dir():
        check_adapter_folder(path)
        origin = read_json_object(path / ORIGIN) if (path / ORIGIN).is_file() else {}
        return LocatedAdapter(path, path.resolve().name, origin.get("repo"), origin.get("commit"))
    if path.is_file():
        return LocatedAdapter(_unpacked(path), path.name.removesuffix(SUFFIX))
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise InputError(f"No adapter folder '{text}'.")
    repo = match["repo"]
    revision = revision or match["revision"]
    folder = _snapshot(repo, revision)
    return LocatedAdapter(folder, repo.rpartition("/")[2], repo, folder.name)


def pull_adapter(text: str, output: Path | None = None, *, revision: str | None = None) -> tuple[Path, LocatedAdapter]:
    """Put the adapter called ``text`` into a folder of its own.

    Args:
        text: as for :func:`locate_adapter`.
        output: the folder to make; by default one of the adapter's name, here.
        revision: branch, tag or commit on the Hub; the commit is kept in :data:`ORIGIN`.

    Returns:
        The folder, and what it was copied from.
    """
    found = locate_adapter(text, revision)
    output = output or Path(found.name)
    with atomic_folder(output) as folder:
        for file in list_shared_files(found.folder):
            shutil.copyfile(file, folder / file.name)
        if found.repo:
            origin = {"repo": found.repo, "commit": found.commit}
            (folder / ORIGIN).write_text(json.dumps(origin) + "\n", encoding="utf-8")
    return output, found


def push_adapter(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    branch: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PushResult:
    """Upload the adapter in ``folder`` to the Hub as one commit, with the token of ``HF_TOKEN`` or ``hf auth login``.

    Args:
        repo: its id there, ``OWNER/NAME``; made if it does not exist.
        public: whether everybody may see it. A repository that exists is never shown to more or fewer than it was.
        branch: the branch to commit to; made if it does not exist.
        say: told, before anything leaves this machine, what in the adapter holds on this machine only.

    Raises:
        InputError: for a folder that cannot be shared, without a token, or when the repository's visibility is not
            what was asked for.
        LoraMMError: when the Hub refuses.
    """
    files = list_shared_files(folder)
    if _HUB_ID.fullmatch(repo) is None or "@" in repo:
        raise InputError(f"'{repo}' is no Hub id; write it as OWNER/NAME.")
    _check_reachable(repo)

    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise InputError(f"{repo}: pushing needs a token that may write: set HF_TOKEN, or run `hf auth login`.")
    for line in _local_paths(folder):
        say(line)
    api = HfApi()
    with _told(repo):
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=not public)
            info = api.model_info(repo)
        _check_visibility(repo, bool(info.private), public)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
            info = api.model_info(repo, revision=branch)
        there = {item.rfilename for item in info.siblings or []}
        gone = sorted(there & (set(LIMITS) - {file.name for file in files}))
        operations: list[Any] = [CommitOperationAdd(file.name, file) for file in files]
        operations += [CommitOperationDelete(name) for name in gone]
        message = f"Adapter {folder.resolve().name}"
        commit = api.create_commit(repo, operations, commit_message=message, revision=branch)
    return PushResult(repo, commit.oid, f"{api.endpoint}/{repo}", bool(info.private))


def _check_visibility(repo: str, private: bool, public: bool) -> None:
    if public and private:
        raise InputError(f"{repo}: exists and is private. Make it public in its settings on the Hub, then push again.")
    if not public and not private:
        raise InputError(f"{repo}: exists and everybody can see it. Say --public to push there, or name another.")


def _local_paths(folder: Path) -> Iterator[str]:
    """What the adapter says that holds on this machine only, a line each."""
    base = read_json_object(folder / PREPROCESSING).get("base") or {}
    name, revision = base.get("name"), base.get("revision")
    if revision is None and name not in (None, "pocket"):
        yield (
            f"The base is called '{name}', a folder on this machine; whoever gets the adapter needs its Hub id: "
            "--set base.model=ID."
        )
    if str(Path.home()) in (folder / RECIPE).read_text(encoding="utf-8"):
        yield f"{RECIPE} names folders in your home ({Path.home()}); all who can see the repository can read that."


def _unpacked(file: Path) -> Path:
    """The folder of a packed file, unpacked now if it is not yet."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    folder = cache_folder() / "packed" / digest / file.name.removesuffix(SUFFIX)
    if not folder.is_dir():
        unpack_adapter(file, folder)
    return folder


def _snapshot(repo: str, revision: str | None) -> Path:
    """The folder in the Hub's cache with the adapter's files of one commit, downloaded if it can be."""
    from huggingface_hub import HfApi, snapshot_download

    text = f"{repo}@{revision}" if revision else repo

    if (why := connection_error()) is not None:
        try:
            folder = Path(
                snapshot_download(repo, revision=revision, allow_patterns=list(LIMITS), local_files_only=True)
            )
        except OSError:  # what the Hub's client raises where its cache has nothing
            raise InputError(
                f"'{text}' is no folder or file here, and not to be had from the Hugging Face Hub ({why}).",
                f"Check the path; or, where the Hub can be reached, `lora-mm share pull {text}`, and take the folder.",
            ) from None
        check_adapter_folder(folder)
        return folder
    with _told(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
        check_no_pickle(repo, list(sizes))
        missing = [name for name in REQUIRED if name not in sizes]
        if missing:
            raise InputError(f"{repo}: not an adapter of lora-mm; it lacks {', '.join(missing)}.")
        check_file_sizes(repo, {name: size for name, size in sizes.items() if name in LIMITS})
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(LIMITS)))
    if folder.name != info.sha:
        raise LoraMMError(f"{repo}: was changed while it was read; do it again.")
    check_adapter_folder(folder)
    return folder


def _check_reachable(repo: str) -> None:
    if (why := connection_error()) is not None:
        raise InputError(
            f"{repo}: the Hugging Face Hub cannot be reached ({why}).",
            "Without it, share a file: `lora-mm share pack ADAPTER`.",
        )


@contextmanager
def _told(repo: str, revision: str | None = None) -> Iterator[None]:
    """What the Hub's client raises, as one line that names the repository and holds no token."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{repo}: {_first_line(error)}") from None
    except GatedRepoError:
        raise InputError(f"{repo}: is gated; ask for access on its page, and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"'{repo}' is no folder or file here, and no repository on the Hub that you can see.",
            "Check the name; for a private one set HF_TOKEN, or run `hf auth login`.",
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repo}: has no revision '{revision}'.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"{repo}: the Hub does not let this token do that ({status}); take one that may."
            ) from None
        raise LoraMMError(f"{repo}: the Hub refused ({status}): {_first_line(error)}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise LoraMMError(f"{repo}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    """The error in one line, without the token, should a library ever write it."""
    from huggingface_hub import get_token

    text = " ".join(str(error).split()) or type(error).__name__
    token = get_token()
    text = text.replace(token, "…") if token else text
    return text if len(text) <= 300 else text[:300] + " …"
