"""The guest's tests are for the guest: on any other machine pytest does not see them."""

import os

collect_ignore = [] if os.environ.get("DAXMEND_RING") else ["guest"]
