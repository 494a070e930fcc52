# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, call the API, print, exit. No logic and no heavy import at the top.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 a goal or a verification was not met;
2 wrong usage or unusable input.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from edgefold import __version__
from edgefold.cli_options import INPUT, MODEL, SHAPE, TASK, THREADS, common
from edgefold.errors import EdgefoldError, UsageError


def _same_dashes(token: str) -> str:
    """``--max_drop`` is ``--max-drop``."""
    return token.replace("_", "-")


class _Commands(click.Group):
    """Lists the commands in the order in which a user meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Commands, context_settings={"token_normalize_func": _same_dashes, "help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="edgefold")
def cli() -> None:
    """Compress ONNX models and deploy them at the edge, with evidence."""


def _show(result: Any, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(result.to_json(), indent=2, default=str))
    else:
        click.echo(result.to_text())


@cli.command()
@MODEL
@click.option("-o", "--output", required=True, help="Folder to write; an existing one is refused unless --force.")
@click.option("-c", "--recipe", default="w4", show_default=True, help="Built-in recipe or YAML file.")
@TASK
@click.option("--target", default="cpu", show_default=True)
@click.option("--max-drop", metavar="1%|1pt", help="Largest loss of the metric: of the original's value, or points.")
@click.option("--max-size", metavar="4MB", help="Largest size of the artefact.")
@click.option("--bits", type=click.FloatRange(2, 8), help="Bits a weight on average, each layer a width of its own.")
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Of every random choice (default 0).")
@click.option("--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE", help="Change an option of the recipe.")
@click.option("--exclude", multiple=True, metavar="NODE-OR-GLOB", help="Nodes that no lossy pass may touch.")
@click.option("--external-data/--no-external-data", default=None, help="Weights beside the model, or inside it.")
@click.option("--dry-run", is_flag=True, help="Check the call, try no step, write no output (but --save-config).")
@click.option("--resume", is_flag=True, help="Go on after the steps that an interrupted run finished.")
@click.option("--force", is_flag=True, help="Replace an existing output folder.")
@click.option("--save-config", metavar="FILE", help="Write the recipe that reproduces these flags.")
@common
def compress(form: str, log_level: str, **options: Any) -> None:
    """Compress a model by a recipe, and measure what was gained and lost."""
    from edgefold.compression import compress as run
    from edgefold.console import progress
    from edgefold.errors import ContractError

    with progress(log_level):
        try:
            report = run(**options)
        except ContractError as error:
            _show(error.report, form)  # type: ignore[attr-defined]
            raise
    _show(report, form)


@cli.command()
@click.option("-m", "--model", "student", required=True, help="The damaged model: an ONNX file, or an output folder.")
@click.option("--teacher", required=True, help="The original that it was made from.")
@click.option("-d", "--data", "task", required=True, help="Task file (YAML) with calibration data to train on.")
@click.option("-o", "--output", required=True, help="Folder to write; an existing one is refused unless --force.")
@click.option("--loss", default="output", show_default=True, metavar="output,tail,blockwise,labels", help="Added up.")
@click.option("--pair", "pairs", multiple=True, metavar="STUDENT=TEACHER", help="Hidden tensors to compare; repeat.")
@click.option("--warm-up", type=float, help="Share of the training that compares hidden tensors only.")
@click.option("--train", default="all", show_default=True, metavar="all,matrices,vectors,NAME", help="What learns.")
@click.option("--adapters", type=int, metavar="RANK", help="Train low-rank adapters, folded away at the end.")
@click.option("--epochs", type=int, help="Passes over the training part (default 10).")
@click.option("--steps", type=int, help="Instead: steps of the optimizer.")
@click.option("--minutes", type=float, help="Instead: minutes of training.")
@click.option("--learning-rate", type=float, help="At its highest, relative to each tensor; default by the model.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), help="Default adamw.")
@click.option("--gradient-bits", type=int, help="Integer training: of gradients of quantized layers; default float.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of products in training; float32.")
@click.option("--batch", type=int, help="Samples a step, over all processes.")
@click.option(
    "--augment",
    default="",
    metavar="flip,crop,warp,colour,mix,patch,splice,swap",
    help="Random changes of images, or of tokens (splice, swap), shown to both models.",
)
@click.option("--teacher-views", default="", metavar="flip,shift", help="Of an image: the teacher says their mean.")
@click.option("--samples", type=int, help="Of the calibration data; default all there are.")
@click.option("--patience", type=int, help="Epochs without a better held-out loss before it stops; 0 never.")
@click.option("--temperature", type=float, help="Of the KL divergence between classes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default auto: CUDA where there is one.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Default: as many as the machine has.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random choice.")
@click.option("--external-data/--no-external-data", default=None, help="Weights beside the model, or inside it.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of the same call was.")
@click.option("--force", is_flag=True, help="Replace an existing output folder.")
@common
def heal(form: str, log_level: str, **options: Any) -> None:
    """Train a compressed model to do again what the original does, without labels."""
    from edgefold import api
    from edgefold.console import progress

    options["pairs"] = [pair.partition("=")[::2] for pair in options["pairs"]]
    for name in ("loss", "augment", "teacher_views", "train"):
        options[name] = [part.strip() for part in options[name].split(",") if part.strip()]
    asked = {name: value for name, value in options.items() if value is not None}
    places = [asked.pop(name) for name in ("student", "teacher", "task", "output")]
    with progress(log_level):
        report = api.heal(*places, **asked)
    if report is not None:  # processes of torchrun but the first have nothing to show
        _show(report, form)


@cli.command()
@MODEL
@click.option("-d", "--data", "task", required=True, help="Task file (YAML).")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Default: as many as the machine has.")
@click.option("--weight-bits", type=click.IntRange(2, 8), help="Run at this width, of those that the file stores.")
@INPUT
@common
def eval(form: str, log_level: str, model: str, task: str, threads: int | None, **options: Any) -> None:  # noqa: A001
    """Score a model on a task: the metric with its 95 % interval, and time per sample."""
    from edgefold import api
    from edgefold.console import progress

    with progress(log_level):
        result = api.evaluate(model, task, threads=threads or 0, **options)
    _show(result, form)


@cli.command()
@click.option("-m", "--model", "models", multiple=True, required=True, help="Repeat to compare several.")
@TASK
@SHAPE
@click.option("--against", default="", metavar="ort-fp32,ort-int8,ort-int4", help="ONNX Runtime's own forms.")
@click.option("--device", default="local", show_default=True)
@THREADS
@click.option("--weight-bits", type=click.IntRange(2, 8), multiple=True, help="A width that the file stores; repeat.")
@INPUT
@common
def bench(form: str, log_level: str, **options: Any) -> None:
    """Measure latency, all contenders interleaved in one run on pinned threads."""
    from edgefold import api
    from edgefold.console import progress

    options["against"] = tuple(name.strip() for name in options["against"].split(",") if name.strip())
    with progress(log_level):
        result = api.bench(options.pop("models"), **options)
    _show(result, form)


@cli.command()
@click.option("-m", "--model", "models", multiple=True, required=True, help="Repeat with --waterline: the gaps of all.")
@SHAPE
@click.option("--groups", is_flag=True, help="Show instead what prune-channels could remove, and what holds the rest.")
@click.option("--waterline", is_flag=True, help="Run it instead: each node's time beside this machine's floor for it.")
@click.option("--picture", metavar="FILE.svg", help="With --groups or --waterline: draw it.")
@common
def inspect(form: str, log_level: str, models: tuple[str, ...], groups: bool, waterline: bool, **options: Any) -> None:
    """Show operators, shapes, MACs, weights and bits, and what quantize would skip."""
    from edgefold import api
    from edgefold.console import progress

    if groups and waterline:
        raise UsageError("inspect: --groups and --waterline show different things; give one of them")
    if not (groups or waterline) and options.pop("picture"):
        raise UsageError("inspect --picture: it shows groups or the waterline; add --groups or --waterline")
    show: Any = api.inspect_groups if groups else api.inspect_waterline if waterline else api.inspect
    if len(models) > 1 and not waterline:
        raise UsageError("inspect: several models are compared by --waterline only; give one -m, or add it")
    with progress(log_level):
        result = api.inspect_gaps(models, **options) if len(models) > 1 else show(models[0], **options)
    _show(result, form)


@cli.command()
@click.option("-m", "--model", "models", multiple=True, required=True, help="Give it twice.")
@TASK
@SHAPE
@common
def diff(form: str, log_level: str, models: tuple[str, ...], task: str | None, shapes: tuple[str, ...]) -> None:
    """Compare two models: every output, and every layer that both have."""
    from edgefold import api
    from edgefold.console import progress

    if len(models) != 2:
        raise UsageError(f"diff: expected -m twice, got {len(models)}")
    with progress(log_level):
        result = api.diff(*models, task=task, shapes=shapes)
    _show(result, form)


@cli.command()
@click.argument("folder")
@common
def verify(form: str, log_level: str, folder: str) -> None:
    """Check an output folder: hashes, ONNX checker, and stock ONNX Runtime against the library."""
    from edgefold import api
    from edgefold.console import progress

    with progress(log_level):
        result = api.verify(folder)
    _show(result, form)


@cli.command()
@click.argument("folder")
@common
def repro(form: str, log_level: str, folder: str) -> None:
    """Rerun a reproducer folder that a failed step wrote."""
    from edgefold import api
    from edgefold.console import progress

    with progress(log_level):
        result = api.repro(folder)
    _show(result, form)


@cli.command()
@common
def doctor(form: str, log_level: str) -> None:
    """Tell which kernels run here, which versions are in use, and what is missing."""
    from edgefold import api
    from edgefold.console import progress

    with progress(log_level):
        result = api.doctor()
    _show(result, form)
    if not result.healthy:
        sys.exit(1)


@cli.command()
@click.argument("action", type=click.Choice(["list", "show"]), default="list")
@click.argument("name", required=False)
@common
def recipes(form: str, log_level: str, action: str, name: str | None) -> None:
    """List the built-in recipes and the passes with their options, or show one."""
    from edgefold.catalogue import list_recipes, show_recipe
    from edgefold.console import progress

    if action == "list" and name is not None:
        raise UsageError(f"recipes list: takes no name; `edgefold recipes show {name}` shows one")
    if action == "show" and name is None:
        raise UsageError("recipes show: expected the NAME of a recipe or pass; `edgefold recipes list` has them")
    with progress(log_level):
        result = show_recipe(name) if action == "show" and name else list_recipes()
    _show(result, form)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: runs the command and turns errors into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # an ended job cleans up as Ctrl-C does
        cli.main(args=arguments, prog_name="edgefold", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2, arguments)
    except (click.Abort, KeyboardInterrupt):
        again = "; the same call with --resume goes on" if arguments[:1] in (["compress"], ["heal"]) else ""
        _fail(f"interrupted; nothing was overwritten{again}", 130, arguments)
    except EdgefoldError as error:
        _fail(str(error), error.exit_code, arguments)
    except BrokenPipeError:
        sys.exit(0)
    except MemoryError:
        _fail("out of memory; use a machine with more, or a model with external data", 2, arguments)
    except OSError as error:
        _fail(str(error), 2, arguments)
    except Exception as error:  # noqa: BLE001 - the last resort: a user gets a line, --log-level debug the traceback
        _fail(f"internal error: {type(error).__name__}: {error} (--log-level debug shows where)", 2, arguments)
    sys.exit(0)


def _fail(message: str, code: int, arguments: list[str]) -> NoReturn:
    if "--log-level=debug" in arguments or ("--log-level", "debug") in itertools.pairwise(map(_same_dashes, arguments)):
        traceback.print_exc()
    click.echo(f"edgefold: error: {' '.join(message.split())}", err=True)
    sys.exit(code)
