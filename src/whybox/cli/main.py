"""The `whybox` command: its subcommands and exit codes."""

import os
import sys
from collections.abc import Sequence

import typer

# Commands import what they need when they run: `whybox --help` and the lists must not wait for torch.
from whybox.cli.analyze import analyze
from whybox.cli.compare import compare
from whybox.cli.demo import demo
from whybox.cli.detect import detect
from whybox.cli.distill import distill
from whybox.cli.drift import drift
from whybox.cli.errors import errors
from whybox.cli.evaluate import evaluate
from whybox.cli.explain import explain
from whybox.cli.finetune_clip import finetune_clip
from whybox.cli.fit_nms import fit_nms
from whybox.cli.match import match
from whybox.cli.methods import methods
from whybox.cli.metrics import metrics
from whybox.cli.models import models
from whybox.cli.predict_trust import predict_trust
from whybox.cli.reproduce import reproduce
from whybox.cli.score_clip import score_clip
from whybox.cli.study import study
from whybox.cli.targets import targets
from whybox.cli.train import train
from whybox.cli.train_clip import train_clip
from whybox.cli.view import view
from whybox.errors import WhyboxError

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="whybox",
    help="Why did the detector draw this box, and why does this text fit the image? Heat maps for detections, texts and words.",
    no_args_is_help=True,
    add_completion=False,
    # In some releases, typer's own tracebacks print all local variables, which here are tensors.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ON_DATA = (analyze, evaluate, compare, reproduce, predict_trust, errors, drift, fit_nms, score_clip)
WORK = (demo, explain, view, match, detect, *ON_DATA, train, distill, train_clip, finetune_clip)
LISTS = (models, methods, targets, metrics)
for command in (*WORK, *LISTS):
    app.command()(command)
app.add_typer(study, name="study")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process.

    Exit codes: 0 success, 1 partial success, 2 an error that is reported in one line, 130 interrupted.

    Args:
        arguments: The words after `whybox`; None: those of the process.
    """
    try:
        app(list(arguments) if arguments is not None else None)
    except WhyboxError as error:
        print(f"whybox: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except SystemExit as left:
        # Typer turns Ctrl-C into this exit code.
        if left.code == INTERRUPTED:
            print("whybox: interrupted", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("whybox: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone; without this, Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    # Such as a full disk: what is left in the buffer would fail once more at exit.
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"whybox: failed: {error.strerror or error}", file=sys.stderr)
        sys.exit(USER_ERROR)
