"""``lora-mm share``: packs, shows, pushes and pulls adapters. Holds no logic and never imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from lora_mm.cli.options import AdapterArgument, JsonOption, parse_path
from lora_mm.json_text import to_json
from lora_mm.printable import echo

app = typer.Typer(help="Pack, show, push and pull adapters.", no_args_is_help=True)


@app.command()
def pack(
    adapter: AdapterArgument,
    output: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="PATH", help="File to write; ADAPTER.tar here by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pack an adapter into one file. The same adapter gives the same bytes."""
    from lora_mm.artifact import packing
    from lora_mm.artifact.hub import locate_adapter
    from lora_mm.artifact.summary import format_size

    located = locate_adapter(adapter)
    file = output or Path(located.name + packing.SUFFIX)
    size = packing.pack_adapter(located.folder, file, _say)
    if as_json:
        echo(to_json({"file": str(file), "bytes": size}))
        return
    echo(f"Wrote {file}, {format_size(size)}.")


@app.command()
def show(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """Show an adapter's base, placements, parameters by part and scores. Loads no model."""
    from lora_mm.artifact.hub import locate_adapter
    from lora_mm.artifact.summary import format_summary, summarize_adapter

    located = locate_adapter(adapter)
    facts = {**summarize_adapter(located.folder), "name": located.name}
    if as_json:
        echo(to_json({**facts, "repo": located.repo, "commit": located.commit}))
        return
    for line in format_summary(facts):
        echo(line)
    if located.origin:
        echo(f"from        {located.origin}")


@app.command()
def push(
    adapter: AdapterArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO-ID", help="OWNER/NAME on the Hub; created if missing.")],
    public: Annotated[bool, typer.Option("--public", help="Create a public repository; private by default.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch, created if missing; main by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub, as one commit, with the token in HF_TOKEN."""
    from lora_mm.artifact.hub import find_adapter
    from lora_mm.artifact.hub import push_adapter as run

    pushed = run(find_adapter(adapter), repo, public=public, branch=branch, say=_say)
    if as_json:
        echo(to_json({"repo": repo, "commit": pushed.commit, "url": pushed.url, "private": pushed.private}))
        return
    kind = "private" if pushed.private else "public"
    echo(f"Pushed to {pushed.url} ({kind}), commit {pushed.commit}.")


@app.command()
def pull(
    source: Annotated[str, typer.Argument(metavar="REPO-ID|FILE", help="Hub id, or a packed file.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; main by default.")] = None,
    output: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="PATH", help="Folder to make; NAME here by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download an adapter from the Hub, or unpack a packed file, into a folder."""
    from lora_mm.artifact.hub import pull_adapter as run

    folder, located = run(source, output, revision=revision)
    if as_json:
        echo(to_json({"folder": str(folder), "repo": located.repo, "commit": located.commit}))
        return
    echo(f"Pulled {located.origin or source} into {folder}.")


def _say(line: str) -> None:
    echo(line, stderr=True)
