"""The command group, and what every command shares: lazy loading, `--debug`, exit codes, no traceback for users."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

import rnnc
from rnnc.cli.console import print_diagnostics
from rnnc.diagnostics import SpecError

# name -> (attribute of rnnc.cli.<module>, help line); a command's file is imported only when it is run
COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("check", "Parse and check specs."),
    "analyze": ("analyze", "What a recurrence is, what it can do, how it can run."),
    "compare": ("compare", "Reports of specs beside each other, differences marked."),
    "run": ("run", "Run a program exactly, in rationals and algebraic numbers."),
    "compile": ("compile", "Write a cell as a PyTorch module."),
    "train": ("train", "Train a cell on a task and test it at other lengths."),
    "list": ("list", "The specs of the standard library."),
    "explain": ("explain", "A page on an error code."),
    "fmt": ("fmt", "Format specs."),
    "demo": ("demo", "DeltaNet with reach 1 and reach 2 on parity."),
    "verify": ("verify", "Prove or refute a spec's claims."),
    "check-certificate": ("check_certificate", "Replay a certificate with the independent checker."),
    "realize": ("later", "An exact program as weights of a known layer (a later version)."),
    "bench": ("bench", "Strategies, backends and peers side by side."),
}


class LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"rnnc.cli.{module}"), f"{cmd_name.replace('-', '_')}_command")
        if not any(p.name == "debug" for p in command.params):
            command.params.append(_debug_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"there is no command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["rnnc.debug"] = True


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show a traceback of internal errors."
    )


@click.group(
    cls=LazyGroup,
    params=[_debug_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: rnnc check deltanet; rnnc analyze deltanet --set reach=2",
)
@click.version_option(rnnc.__version__, prog_name="rnnc")
def cli() -> None:
    """rnnc: a compiler for recurrent architectures.

    FILE is a path to a .rnn spec, the name of one in the standard library (`rnnc list`), or - for standard input.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (0, or 2 when the spec or the call is wrong)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        result: Any = cli.main(args=arguments, prog_name="rnnc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SpecError as error:
        print_diagnostics(error.diagnostics, error.sources)
        return 2
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except BrokenPipeError:
        # The reader went away (`rnnc list | head`): nothing to say, and nothing may be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug or error.filename is None:
            return _internal(error, debug)
        click.echo(f"{error.filename}: {error.strerror}", err=True)
        return 2
    except ModuleNotFoundError as error:
        if debug or not _missing_extra(error):
            return _internal(error, debug)
        return 2
    except Exception as error:  # noqa: BLE001  the one place that turns a compiler bug into a message
        return _internal(error, debug)


# top-level module -> the extra that brings it
_EXTRAS = {"torch": "torch", "safetensors": "torch", "matplotlib": "train", "sklearn": "train", "triton": "triton"}


def _missing_extra(error: ModuleNotFoundError) -> bool:
    top = (error.name or "").split(".")[0]
    if top not in _EXTRAS:
        return False
    click.echo(f"this needs {top}, which is not installed: pip install 'rnnc[{_EXTRAS[top]}]'", err=True)
    return True


def _internal(error: BaseException, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    else:
        where = type(error).__name__
        click.echo(
            f"internal error ({where}: {error}): this is a bug of rnnc, not of your spec.\n"
            "Run the command again with --debug and report what it prints, with the spec.",
            err=True,
        )
    return 2
