"""`python -m services.reward`"""

import sys

from services.reward.app import main

sys.exit(main())
