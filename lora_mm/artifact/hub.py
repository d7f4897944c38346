"""Finds adapters by any name (a folder, a packed file, a Hub id), and moves them to and from the Hub. Imports no torch.

From a repository only an adapter's files are downloaded, from one commit, after a check of their names and sizes.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora_mm.artifact.files import (
    LIMITS,
    REQUIRED,
    check_adapter_folder,
    check_file_sizes,
    check_no_pickle,
    list_shared_files,
    read_json_object,
)
from lora_mm.artifact.outgoing import copy_to_send
from lora_mm.artifact.packing import SUFFIX, unpack_adapter
from lora_mm.artifact.preprocessing import read_trained_base
from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError, LoraMMError
from lora_mm.hub_access import cache_folder, connection_error
from lora_mm.paths import resolve_path

ORIGIN = "origin.json"
"""File in a pulled adapter folder: the repository and the commit it comes from."""

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[^@\s]+))?")
_MAX_ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True)
class LocatedAdapter:
    """An adapter on this machine.

    Attributes:
        folder: its files.
        name: name of its folder, packed file or repository.
        repo, commit: its repository and commit on the Hub; None for an adapter from elsewhere.
    """

    folder: Path
    name: str
    repo: str | None = None
    commit: str | None = None

    @property
    def origin(self) -> str | None:
        """Repository and commit in words; None for an adapter that is not from the Hub."""
        return f"{self.repo} at commit {self.commit}" if self.repo else None


@dataclass(frozen=True, slots=True)
class PushResult:
    """A finished push.

    Attributes:
        repo: Hub id.
        commit: the commit that holds the adapter.
        url: of the repository.
        private: whether the repository is private.
    """

    repo: str
    commit: str
    url: str
    private: bool


def find_adapter(text: str | Path) -> Path:
    """Find the folder of the adapter that ``text`` names; see :func:`locate_adapter`."""
    return locate_adapter(str(text)).folder


def locate_adapter(text: str, revision: str | None = None) -> LocatedAdapter:
    """Locate an adapter, and unpack or download it if necessary.

    A local folder or file of this name comes first. A packed file is unpacked under ``$HF_HOME/lora-mm``, once per
    content. An adapter on the Hub is kept in the Hub's cache, and found there without network.

    Args:
        text: a folder, a packed file, or a Hub id; ``ID@REVISION`` pins a revision.
        revision: branch, tag or commit on the Hub; None for the one in ``text``, or the newest of main.

    Raises:
        InputError: no adapter of this name, or one that is not safe to read; says where it was searched.
    """
    path = resolve_path(text, "adapter")
    if revision is not None and path.exists():
        raise InputError(f"--revision {revision}: '{text}' is a local path; only adapters on the Hub have revisions.")
    if path.is_dir():
        check_adapter_folder(path)
        origin = read_json_object(path / ORIGIN) if (path / ORIGIN).is_file() else {}
        return LocatedAdapter(path, path.resolve().name, origin.get("repo"), origin.get("commit"))
    if path.is_file():
        return LocatedAdapter(_unpack_to_cache(path), path.name.removesuffix(SUFFIX))
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise InputError(f"No adapter folder '{text}'.")
    repo = match["repo"]
    folder = _download(repo, revision or match["revision"])
    return LocatedAdapter(folder, repo.rpartition("/")[2], repo, folder.name)


def pull_adapter(text: str, output: Path | None = None, *, revision: str | None = None) -> tuple[Path, LocatedAdapter]:
    """Copy an adapter into a new folder.

    Args:
        text: as for :func:`locate_adapter`.
        output: folder to make; by default the adapter's name in the current folder.
        revision: branch, tag or commit on the Hub; the commit is recorded in :data:`ORIGIN`.

    Returns:
        The folder, and the adapter it was copied from.

    Raises:
        InputError: as for :func:`locate_adapter`, and for an ``output`` that exists.
        LoraMMError: the folder cannot be written.
    """
    located = locate_adapter(text, revision)
    output = output or Path(located.name)
    with atomic_folder(output) as folder:
        for file in list_shared_files(located.folder):
            shutil.copyfile(file, folder / file.name)
        if located.repo:
            origin = {"repo": located.repo, "commit": located.commit}
            (folder / ORIGIN).write_text(json.dumps(origin) + "\n", encoding="utf-8")
    return output, located


def push_adapter(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    branch: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PushResult:
    """Upload an adapter to the Hub as one commit, with the token of ``HF_TOKEN`` or ``hf auth login``.

    Paths of this machine are not sent (see :func:`~.outgoing.copy_to_send`).

    Args:
        folder: of the adapter.
        repo: Hub id, ``OWNER/NAME``; created if it does not exist.
        public: create a public repository. The visibility of an existing one never changes.
        branch: branch to commit to, created if it does not exist; None for main.
        say: called before the upload with a line for each path of this machine that is replaced.

    Raises:
        InputError: a folder that cannot be shared, no token, a token without permission, or a repository whose
            visibility differs from ``public``.
        LoraMMError: the Hub refuses for another reason.
    """
    list_shared_files(folder)
    if _HUB_ID.fullmatch(repo) is None or "@" in repo:
        raise InputError(f"'{repo}' is not a Hub id; write OWNER/NAME.")
    _check_reachable(repo)

    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise InputError(f"{repo}: pushing needs a token with write access: set HF_TOKEN, or run `hf auth login`.")
    _warn_of_local_base(folder, say)
    api = HfApi()
    with copy_to_send(folder, say) as files, _explain_hub_errors(repo):
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=not public)
            info = api.model_info(repo)
        _check_visibility(repo, bool(info.private), public)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        # One commit: the Hub's client splits only uploads of hundreds of files, or of 100 MB of text.
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=files[0].parent,
            allow_patterns=[file.name for file in files],
            delete_patterns=list(LIMITS),  # files of an older adapter that this one lacks
            commit_message=f"Adapter {folder.resolve().name}",
            revision=branch,
        )
    return PushResult(repo, commit.oid, f"{api.endpoint}/{repo}", bool(info.private))


def _check_visibility(repo: str, private: bool, public: bool) -> None:
    if public and private:
        raise InputError(f"{repo}: exists and is private. Make it public in its settings on the Hub, then push again.")
    if not public and not private:
        raise InputError(f"{repo}: exists and is public. Give --public to push there, or another name.")


def _warn_of_local_base(folder: Path, say: Callable[[str], None]) -> None:
    base = read_trained_base(folder)
    name, revision = base.get("name"), base.get("revision")
    if revision is None and name not in (None, "pocket"):
        say(
            f"The base '{name}' is a folder on this machine; whoever downloads the adapter must give its Hub id: "
            "--set base.model=ID."
        )


def _unpack_to_cache(file: Path) -> Path:
    """Find the folder of a packed file in the cache; unpack it if it is not there yet."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    folder = cache_folder() / "packed" / digest / file.name.removesuffix(SUFFIX)
    try:
        if not folder.is_dir():
            unpack_adapter(file, folder)
    except LoraMMError:
        if not folder.is_dir():  # otherwise another process unpacked the same file meanwhile
            raise
    return folder


def _download(repo: str, revision: str | None) -> Path:
    """Find the adapter's files of one commit in the Hub's cache; download them if the Hub can be reached."""
    from huggingface_hub import HfApi, snapshot_download

    if (reason := connection_error()) is not None:
        folder = _find_in_cache(repo, revision, reason)
        check_adapter_folder(folder)
        return folder
    with _explain_hub_errors(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
        check_no_pickle(repo, list(sizes))
        missing = [name for name in REQUIRED if name not in sizes]
        if missing:
            raise InputError(f"{repo}: not an adapter of lora-mm; it lacks {', '.join(missing)}.")
        check_file_sizes(repo, {name: size for name, size in sizes.items() if name in LIMITS})
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(LIMITS)))
    if folder.name != info.sha:
        raise LoraMMError(f"{repo}: changed during the download; try again.")
    check_adapter_folder(folder)
    return folder


def _find_in_cache(repo: str, revision: str | None, reason: str) -> Path:
    """Find the adapter's folder in the Hub's cache; ``reason`` says why the Hub cannot be reached."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(LIMITS), local_files_only=True))
    except OSError:  # raised by the Hub's client for what is not in its cache
        name = f"{repo}@{revision}" if revision else repo
        raise InputError(
            f"'{name}' is not a local folder or file, and the Hugging Face Hub cannot be reached ({reason}).",
            f"Check the path; or run `lora-mm share pull {name}` on a machine with network, and copy the folder.",
        ) from None


def _check_reachable(repo: str) -> None:
    if (reason := connection_error()) is not None:
        raise InputError(
            f"{repo}: the Hugging Face Hub cannot be reached ({reason}).",
            "Without it, share a file: `lora-mm share pack ADAPTER`.",
        )


@contextmanager
def _explain_hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn errors of the Hub's client into one or two lines that name the repository and hold no token."""
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
        raise InputError(f"{repo}: {_format_error(error)}") from None
    except GatedRepoError:
        raise InputError(f"{repo}: gated repository; request access on its page, and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"'{repo}' is not a local folder or file, and not a repository on the Hub that you can access.",
            "Check the name; for a private one set HF_TOKEN, or run `hf auth login`.",
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{repo}: has no revision '{revision}'.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(f"{repo}: this token lacks permission ({status}); use one with write access.") from None
        raise LoraMMError(f"{repo}: the Hub refused ({status}): {_format_error(error)}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise LoraMMError(f"{repo}: {_format_error(error)}") from None


def _format_error(error: BaseException) -> str:
    """Format the error on one line, without the token if a library includes it."""
    from huggingface_hub import get_token

    text = " ".join(str(error).split()) or type(error).__name__
    token = get_token()
    text = text.replace(token, "…") if token else text
    return text if len(text) <= _MAX_ERROR_LENGTH else text[:_MAX_ERROR_LENGTH] + " …"
