"""Writes the CustomResourceDefinition to standard output."""

import sys

from gapo.crd.document import text

sys.stdout.write(text())
