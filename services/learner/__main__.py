"""`python -m services.learner`: the learner's process."""

import sys

from services.learner.app import main

sys.exit(main())
