"""Column names of your own data. Reads no rows."""

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
"""Field → the column names to try for it, in this order, unless ``data.columns`` names one."""

OPTIONAL = ("id", "image", "context")
"""Fields that are optional in every layout."""
