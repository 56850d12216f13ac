"""``python -m sojourn.cli``: the command without its script."""

from __future__ import annotations

import sys

from sojourn.cli import main

sys.exit(main())
