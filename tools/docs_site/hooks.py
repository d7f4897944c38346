"""mkdocs hooks: fill generated parts into pages, and add pages that are files elsewhere in the repository."""

from typing import Any

from mkdocs.structure.files import File, Files

from tools.docs_site import pages

FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page → the file at the repository's root that it shows."""


def on_config(config: Any) -> Any:
    """Add the pages of measurements and of packages to the navigation."""
    for entry in config.nav:
        if "Measurements" in entry:
            entry["Measurements"] += [f"measurements/{name}.md" for name in pages.list_results()]
        if "API" in entry:
            entry["API"] += [{_title(name): f"api/{_file_name(name)}"} for name in pages.list_packages()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file in ``docs/`` holds."""
    for name in pages.list_results():
        files.append(File.generated(config, f"measurements/{name}.md", content=pages.read_result(name)))
    for package in pages.list_packages():
        files.append(File.generated(config, f"api/{_file_name(package)}", content=pages.make_package_page(package)))
    for page, source in FROM_ROOT.items():
        files.append(
            File.generated(config, page, content=_move_links((pages.ROOT / source).read_text(encoding="utf-8")))
        )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the parts of a page that the code tells."""
    return pages.fill_in(markdown)


def _move_links(text: str) -> str:
    """The text of a file at the root with its links as seen from ``docs/``."""
    text = text.replace("](docs/", "](")
    for page, source in FROM_ROOT.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text


def _file_name(package: str) -> str:
    return f"{'foundations' if package == 'lora_mm' else package.rpartition('.')[2]}.md"


def _title(package: str) -> str:
    return "foundations" if package == "lora_mm" else package.rpartition(".")[2]
