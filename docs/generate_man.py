"""Writes the man pages of the commands: docs/man/daxmend.1 and docs/man/daxmend-COMMAND.1.

What can go stale is taken from the commands themselves: names, synopsis, description, options.
What only a person can write stands in docs/man/parts, one file a page, in the language of man(7):
whole sections, or what follows the made ones. A test compares, and runs what begins with `$ ` under
EXAMPLES; comments there are for it alone (`.\\" $ COMMAND`, `.\\" exits N`, `.\\" not here: WHY`).
"""

import inspect
import re
from pathlib import Path

import click

from daxmend.cli import COMMANDS, option
from daxmend.cli.program import daxmend

MAN = Path(__file__).parent / "man"
ORDER = (
    *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "TARGETS"),
    *("FAULT PLANS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "NOTES", "SEE ALSO"),
)
_NAME = "recovery from media errors, and their rehearsal"
_STATUSES = {
    8: "it could not be done; standard error says what, where and what to do next",
    16: "the command line has no meaning",
    130: "interrupted",
}
_SIZE = """.PP
.I SIZE
is a number of bytes, or a number with
.BR K ", " M ", " G " or " T
behind it (powers of 1024).
"""
_PLACEHOLDERS = {
    *("CMD", "COPY", "DIR", "DIRECTORY", "FILE", "KIND", "MAP", "MESSAGE", "N", "OPTIONS", "OUT"),
    *("PATH", "PATTERN", "POOL", "SECTOR", "SIZE", "SOURCE", "TARGET", "WHERE"),
}


def pages() -> dict[str, str]:
    """File name and text of every page."""
    context = click.Context(daxmend, info_name="daxmend", **daxmend.context_settings)
    found = {"daxmend.1": _page("daxmend", daxmend, context, _NAME)}
    for name, summary in COMMANDS.items():
        command = daxmend.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        says = summary[0].lower() + summary[1:].rstrip(".")
        found[f"daxmend-{name}.1"] = _page(f"daxmend-{name}", command, below, says)
    return found


def _page(name: str, command: click.Command, context: click.Context, summary: str) -> str:
    written = read_part(name)
    made = {
        "NAME": f"{escape(name)} \\- {escape(summary)}\n",
        "SYNOPSIS": _synopsis(command, context),
        "DESCRIPTION": _description(command),
        "OPTIONS": _options(command, context),
    }
    if command is daxmend:
        made["COMMANDS"] = "".join(_entry(each) for each in COMMANDS)
    sections = written | {title: text + written.get(title, "") for title, text in made.items()}
    statuses = written.get("EXIT STATUS", "")
    general = {each: says for each, says in _STATUSES.items() if f".B {each}\n" not in statuses}
    sections["EXIT STATUS"] = statuses + "".join(
        f".TP\n.B {each}\n{says}\n" for each, says in general.items()
    )
    assert set(sections) <= set(ORDER), f"{name}: {set(sections) - set(ORDER)}"
    return (
        f'.\\" Made by docs/generate_man.py of the command and of parts/{name}.man\n'
        f'.TH {escape(name)} 1 "" daxmend "daxmend commands"\n'
        + "".join(f".SH {title}\n{sections[title]}" for title in ORDER if title in sections)
    )


def read_part(name: str) -> dict[str, str]:
    """The sections in docs/man/parts, without the comments that are for the test."""
    sections: dict[str, str] = {}
    title = ""
    for line in (MAN / "parts" / f"{name}.man").read_text().splitlines(keepends=True):
        if line.startswith(".SH "):
            title = line[4:].strip()
            sections[title] = ""
        elif not line.startswith('.\\"'):
            sections[title] += line
    return sections


def _entry(name: str) -> str:
    return f".TP\n.BR {escape(f'daxmend-{name}')} (1)\n{mark_up(COMMANDS[name])}\n"


def _synopsis(command: click.Command, context: click.Context) -> str:
    words = [f"\\fB{context.command_path}\\fR"]
    for param in command.params:
        if isinstance(param, click.Option):
            text = f"\\fB{escape(min(param.opts, key=len))}\\fR" + _value(param)
            words.append(text if param.required else f"[{text}]")
        else:
            words.append(_value(param).strip())
        words[-1] += "..." if isinstance(param, click.Option) and param.multiple else ""
    if isinstance(command, click.Group):
        words.append("\\fICOMMAND\\fR [\\fIARGS\\fR]...")
    return ".ad l\n.nh\n.HP\n" + "\n".join(words) + "\n.hy\n.ad\n"


def _value(param: click.Parameter) -> str:
    """What follows an option, or stands for an argument; words to choose from as they are."""
    if isinstance(param, click.Option) and param.is_flag:
        return ""
    if isinstance(param.type, click.Choice):
        return " " + "|".join(f"\\fB{escape(str(word))}\\fR" for word in param.type.choices)
    metavar = param.metavar or _placeholder(param)
    return " " + re.sub(r"\w+", lambda word: f"\\fI{word[0]}\\fR", metavar)


def _placeholder(param: click.Parameter) -> str:
    if isinstance(param, click.Option):
        name = param.type.name.upper()
        return "N" if name.startswith("INTEGER") else name
    name = (param.name or "").upper() + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _description(command: click.Command) -> str:
    """The command's help, but for how it exits: that has its own section."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return ".PP\n".join(filter(None, map(_paragraph, paragraphs)))


def _paragraph(text: str) -> str:
    if text.startswith("\b"):
        return "".join(_line_of_list(line) for line in text.splitlines()[1:])
    sentences = re.split(r"(?:^|\s)Exits 0 ", re.sub(r"\s+", " ", text))[0]
    return mark_up(sentences).replace(". ", ".\n") + "\n" if sentences else ""


def _line_of_list(line: str) -> str:
    """Of a help's list, `  term   what it is`, below a line that says what it lists."""
    term = re.fullmatch(r" +(\S.*?) {2,}(.+)", line)
    return f".TP\n\\fB{escape(term[1])}\\fR\n{mark_up(term[2])}\n" if term else mark_up(line) + "\n"


def _options(command: click.Command, context: click.Context) -> str:
    params = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    text = ""
    for param in params:
        opts = sorted(param.opts, key=len)  # click does not always give them in one order
        names = ", ".join(f"\\fB{escape(name)}\\fR" for name in opts)
        record = param.get_help_record(context)
        assert record is not None, f"{param.name} has no help"
        text += f".TP\n{names}{_value(param)}\n{mark_up(record[1])}\n"
    has_size = any(param.type is option.SIZE for param in params)
    return text + (_SIZE if has_size else "")


def escape(text: str) -> str:
    """Plain text for man(7): every minus is one that can be copied."""
    for character, name in (("\\", "\\e"), ("-", "\\-"), ("…", "..."), ("'", "\\(aq")):
        text = text.replace(character, name)
    return text


def mark_up(text: str) -> str:
    """A help's text: options and `code` bold, placeholders in italics."""
    pieces = re.split(r"(`[^`]+`|(?<![\w-])--?[a-z][\w-]*|\b[A-Z]+\b)", re.sub(r"\s+", " ", text))
    return re.sub(r"^([.'])", r"\\&\1", "".join(map(_piece, pieces)).strip())


def _piece(text: str) -> str:
    if text.startswith(("`", "-")) and len(text) > 1:
        return f"\\fB{escape(text.strip('`'))}\\fR"
    if text in _PLACEHOLDERS:
        return f"\\fI{text}\\fR"
    return re.sub(r"(?<=\w)\\-(?=[a-z])", "-", escape(text))  # a hyphen in a word


if __name__ == "__main__":
    for name, text in pages().items():
        (MAN / name).write_text(text)
