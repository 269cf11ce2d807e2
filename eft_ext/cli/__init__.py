"""The command line `eft` (also `python -m eft_ext`): one module for each command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from eft_ext import _interrupt
from eft_ext._errors import console, said, say
from eft_ext._extras import needs
from eft_ext._version import __version__
from eft_ext.cli import bench, chat, demo, dynamics, environment, generate, info, pack, report, score, serve
from eft_ext.cli.command import Command

app = typer.Typer(
    name="eft",
    help="Emulated fine-tuning: a large language model that behaves as if it had been tuned like a small one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eft_ext {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for module in (demo, generate, chat, score, report, pack, info, bench, environment):
    app.command(module.NAME, cls=Command)(module.run)
app.command(serve.NAME, cls=Command, context_settings=serve.REST)(serve.run)
app.add_typer(dynamics.app)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or what the command returned; for what goes wrong see `eft_ext._errors.said`.
    """
    with console():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    try:
        with _interrupt.unwinding(), needs("this command", "cli"):
            result = app(arguments, standalone_mode=False)
            sys.stdout.flush()
    except SystemExit as error:
        # What typer and rich make of a broken pipe, with exit code 1.
        if isinstance(error.__context__, BrokenPipeError):
            return said(error.__context__)
        raise
    except (Exception, _interrupt.Interrupted) as error:
        if type(error).__name__ == "Abort":
            return say(_interrupt.SAID, _interrupt.CODE)
        if hasattr(error, "format_message"):  # of typer, on wrong usage
            return say(error.format_message(), getattr(error, "exit_code", 2))
        return said(error)
    if result == _interrupt.CODE:  # what newer typer makes of a KeyboardInterrupt, saying nothing
        return say(_interrupt.SAID, result)
    return result if isinstance(result, int) else 0


__all__ = ["app", "main"]
