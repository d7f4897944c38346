"""Names of the columns that rows of your own data can have. Reads no rows."""

from collections.abc import Mapping

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "sample_id", "uid"),
    "messages": ("messages",),
    "conversations": ("conversations", "conversation"),
    "question": ("question", "query", "instruction", "problem"),
    "context": ("context", "hint"),
    "choices": ("choices", "options"),
    "answer": ("answer", "answers", "response", "output", "caption", "text"),
    "image": ("image", "images", "picture", "file_name", "image_path"),
}
"""Content of a row to the column names that are tried for it, in this order, unless ``data.columns`` names one."""

OPTIONAL = ("id", "image", "context")
"""Content that a row of any layout can have or lack."""
