"""The site's only code of its own: the page of the command line is made of the commands' help, as typer writes it."""

import subprocess
import sys

PAGE = "reference/cli.md"


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri != PAGE:
        return markdown
    command = [sys.executable, "-m", "typer", "eft_ext.cli", "utils", "docs", "--name", "eft"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return markdown + text.partition("\n")[2]  # the page has a title
