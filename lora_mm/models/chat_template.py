"""Writes chat templates of families whose checkpoints ship none. Knows no tokenizer and no family."""

# The namespace keeps its value from one turn of the loop to the next.
_TEMPLATE = (
    "{% set text = namespace(begun=BEGUN) %}{% if text.begun %}BOS{% endif %}"
    "{% for message in messages %}"
    "{% if loop.previtem and loop.previtem['role'] != 'user' %}{{ '\\n' }}{% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}MARK{% else %}"
    "{% if not text.begun %}BOS{% set text.begun = true %}{% endif %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
    "{% if message['role'] == 'user' %}END{% endif %}"
    "{% endfor %}"
)


def write_plain_template(
    *, bos: str = "{{ bos_token }}", pictures_first: bool = False, end: str = "{{ '\\n' }}", mark: str = "<image>"
) -> str:
    """Write the chat template of a family that was trained on questions and answers without names of roles.

    Each picture stands where its turn has it. A line ends every turn that is not the user's before the next one begins,
    so that no two of them run together.

    Args:
        bos: begins the text, in Jinja.
        pictures_first: whether ``bos`` follows the pictures that the first turn begins with; else it precedes them.
        end: ends a user's turn, in Jinja.
        mark: placeholder of a picture.
    """
    values = {"BEGUN": str(not pictures_first).lower(), "BOS": bos, "MARK": mark, "END": end}
    template = _TEMPLATE
    for name, value in values.items():
        template = template.replace(name, value)
    return template
