"""`python -m whybox`: the command line."""

from whybox.cli.main import run

if __name__ == "__main__":
    run()
