"""`python -m services.data`."""

import sys

from services.data.app import main

if __name__ == "__main__":
    sys.exit(main())
