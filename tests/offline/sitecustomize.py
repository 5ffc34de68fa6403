"""No network in this process and all that it starts: Python imports this by itself where the folder is on its path."""

import blocked_sockets

blocked_sockets.block()
