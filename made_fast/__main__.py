"""``python -m made_fast`` is ``made-fast``."""

import sys

from made_fast.cli import main

sys.exit(main())
