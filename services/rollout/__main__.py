"""`python -m services.rollout`: the process of one rollout replica."""

import sys

from services.rollout.app import main

sys.exit(main())
