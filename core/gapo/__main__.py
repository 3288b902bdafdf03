"""`python -m gapo` is the `gapo` command."""

from gapo.cli import main

main()
