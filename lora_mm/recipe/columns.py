"""What rows of own data can hold, and by which names it is found. Knows nothing else."""

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
"""What a row can hold, and the names under which each is found when ``data.columns`` does not say."""

OPTIONAL = ("id", "image", "context")
"""What a row of any layout may have."""
