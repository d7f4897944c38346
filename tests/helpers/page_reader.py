"""What a browser would make of a page: elements, attributes and text."""

from html.parser import HTMLParser


class PageReader(HTMLParser):
    """Reads a whole page.

    Attributes:
        tags: names of the elements, in order.
        attributes: names and values of all their attributes.
        text: pieces of text that the page shows.
    """

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text.append(data.strip(" "))

    def check_harmless(self) -> None:
        """Fail if the page runs, fetches or links to anything."""
        assert not {"script", "link", "iframe", "object", "embed", "form", "base", "a", "use"} & set(self.tags)
        for name, value in self.attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "xlink:href"):
                assert (value or "").startswith("data:image/jpeg;base64,")
        assert any("default-src 'none'" in (value or "") for _, value in self.attributes)
