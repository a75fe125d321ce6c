"""``python -m latentbus`` is the ``latentbus`` command."""

from latentbus.cli import main

main()
