"""How the command line ends: a mistake is one line and an exit code, never a traceback."""

import subprocess
import sys

import pytest

from whybox.cli import main
from whybox.errors import WhyboxError


def test_help_names_every_command_and_loads_no_framework():
    code = (
        "import sys; from whybox.cli.main import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False False")
    for command in ("demo", "explain", "detect", "train", "models", "methods", "targets"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (WhyboxError("no such thing"), 2, "whybox: no such thing\n"),
        (KeyboardInterrupt(), 130, "whybox: interrupted\n"),
    ],
)
def test_errors_end_in_one_line_and_a_code(monkeypatch, capsys, error, code, line):
    def fail(_):
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main.run([])
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_a_reader_that_leaves_is_no_error():
    code = "from whybox.cli.main import run; run(['methods', '--json'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_unknown_options_are_a_usage_error(whybox):
    code, _, err = whybox("explain", "--frobnicate")
    assert code == 2
    assert "--frobnicate" in err
