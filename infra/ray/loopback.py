"""`ray start`, except that 127.0.0.1 stays 127.0.0.1: Ray's own command replaces it with the machine's outer address and then
listens on all interfaces. Run by infra/start/ray_head.py and ray_node.py; a test looks at the ports."""

from __future__ import annotations

import os
import sys

from ray._private import services
from ray.scripts.scripts import main

LOOPBACK = ("127.0.0.1", "localhost")

addresses = [value for name, value in zip(sys.argv, sys.argv[1:], strict=False) if name == "--node-ip-address"]
if addresses and addresses[-1] in LOOPBACK:
    services.resolve_ip_for_localhost = lambda host: host
    # for agents and drivers: Ray leaves loopback alone where it takes itself for the only node. Set after the import, so that
    # this process, which adds a node, does not
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
sys.exit(main())
