"""The command line, and what composes edge, broker and workers: demo, client, checks."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("latentbus")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"
